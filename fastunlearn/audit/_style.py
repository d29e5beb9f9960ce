"""The stylesheet of the report: readable at a phone's width, in the dark, in greyscale and on paper."""

STYLE = """
:root { --ink: #1c2126; --soft: #59636e; --line: #d5dae0; --paper: #fff; --tint: #f4f6f8;
  --second: #174a8c; --first: #b85406; --goal: #1a7f3714; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a4adb8; --line: #3c444d;
  --paper: #15191e; --tint: #1e242b; --second: #8db9f7; --first: #ffad66; --goal: #3fb95026; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 75rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Hiragino Sans", "Noto Sans CJK JP", "Yu Gothic UI", Meiryo, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, dd, li { max-width: 46rem; }
.meta, .note, figcaption { color: var(--soft); font-size: .9rem; }
.meta { margin: 0; }
.verdict { font-size: 1.15rem; line-height: 1.45; border-left: .3rem solid var(--second);
  padding: .1rem 0 .1rem .9rem; margin: 1.2rem 0; max-width: 54rem; }
.boxes { display: grid; gap: .8rem; margin: 0 0 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.box { border: 1px solid var(--line); border-radius: .4rem; padding: .2rem .9rem .6rem; }
.box h3 { margin: .6rem 0 .2rem; } .box ul { margin: 0; padding-left: 1.1rem; } .box li { margin: .25rem 0; }
.card { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); border: 1px solid var(--line);
  border-radius: .4rem; padding: .7rem .9rem; font-size: .875rem; }
figure { margin: 0; }
.plot { display: block; width: 100%; height: auto;
  font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; }
.plot.narrow { display: none; max-width: 30rem; font-size: 13px; }
.plot text { fill: var(--soft); }
.plot .name { fill: var(--ink); }
.plot .model-label { fill: var(--ink); font-weight: 600; paint-order: stroke;
  stroke: var(--paper); stroke-width: 4px; }
.plot .axis-title { fill: var(--ink); }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1.2; }
.goal { fill: var(--goal); stroke: none; }
.way { fill: none; stroke-width: 1.4; opacity: .6; }
.way.first { stroke: var(--first); stroke-dasharray: 5 4; }
.way.second { stroke: var(--second); }
.way.unknown { stroke: var(--soft); stroke-dasharray: 1.5 3; }
.dot.first { fill: var(--first); } .dot.second { fill: var(--second); } .dot.unknown { fill: var(--soft); }
.dot { opacity: .7; }
.leader { fill: none; stroke: var(--soft); stroke-width: .8; opacity: .55; }
.mark { stroke-width: 2; }
.mark.first { fill: var(--paper); stroke: var(--first); }
.mark.second { fill: var(--second); stroke: var(--paper); stroke-width: 1; }
.mark.unknown { fill: var(--line); stroke: var(--soft); }
.model { stroke: var(--ink); stroke-width: 3; fill: none; }
.model.filled { fill: var(--ink); stroke: var(--paper); stroke-width: 1; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
.scroll:focus-visible { outline: 2px solid var(--second); }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .45rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; vertical-align: bottom; background: var(--tint); }
.results thead tr:first-child th { text-align: left; color: var(--soft); font-weight: 400;
  border-left: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 400; min-width: 9.8rem; background: var(--paper); }
.results thead tr th:first-child { border-left: 0; }
.results tbody th, .results thead th.who { position: sticky; left: 0; z-index: 1; }
.results { font-size: .82rem; } .results th, .results td { padding: .38rem .38rem; }
.hint { display: none; }
.group { border-left: 1px solid var(--line); }
.best > * { font-weight: 700; }
.tag { display: block; color: var(--soft); font-weight: 400; font-size: .93em; }
.sub { display: block; color: var(--soft); font-weight: 400; font-size: .93em; white-space: nowrap; }
td { white-space: nowrap; }
:lang(ja) th { word-break: keep-all; }
tr.base > * { background: var(--tint); }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: 0 .8rem; }
summary { cursor: pointer; padding: .45rem 0; }
details > :last-child { margin-bottom: .8rem; }
dl.pairs { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem;
  margin: .4rem 0; }
dl.pairs dt { color: var(--soft); } dl.pairs dd { margin: 0; overflow-wrap: anywhere; }
dl.reading dt { font-weight: 600; margin-top: .7rem; } dl.reading dd { margin: 0; }
@media (max-width: 42rem) {
  body { padding: 1rem .8rem 2rem; }
  h1 { font-size: 1.4rem; } .verdict { font-size: 1.05rem; }
  .plot.wide { display: none; } .plot.narrow { display: block; }
  .results tbody th { min-width: 7.5rem; max-width: 7.5rem; } .hint { display: block; }
  dl.pairs { grid-template-columns: 1fr; gap: 0; } dl.pairs dd { margin-bottom: .4rem; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --tint: #f2f2f2; --second: #174a8c;
    --first: #b85406; --goal: #00000010; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .plot.wide { display: block; max-height: 150mm; } .plot.narrow { display: none; }
  .decision { break-after: page; } .boxes { grid-template-columns: 1fr 1fr; gap: 4mm; }
  figure, tr, .verdict, .box, .card { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; border: 0; } table { font-size: 8pt; } th, td { padding: .2rem .3rem; }
  .results { font-size: 7.5pt; } .results th, .results td { padding: .2rem .25rem; }
  .results tbody th { min-width: 6rem; }
  details { border: 0; padding: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
