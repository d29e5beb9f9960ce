"""The visible words of the report in Japanese. The same keys stand in every language's table."""

from __future__ import annotations

JA: dict = {
    "yes": "はい",
    "no": "いいえ",
    "and": "、",
    "seconds": "{} 秒",
    "minutes": "{} 分 {} 秒",
    "hours": "{} 時間 {} 分",
    # the page's frame
    "seed": "シード {}",
    "nothing_recorded": "記録はありません。",
    "results": "結果",
    "sideways": "表は横にスクロールできます。",
    "what_was_run": "実行した内容",
    "data": "データ",
    "model": "モデル",
    "how_to_read": "数値の読み方",
    "notes": "注記",
    "versions_and_machine": "バージョンと実行環境",
    "versions": "バージョン",
    "machine": "実行環境",
    # the first page
    "decision": "判断のための要約",
    "removed": "何を消去したか",
    "removed_counts": "消去の対象は {records} 件の記録です。",
    "removed_share": "対象の記録でモデルが正しく予測するトークンの割合は、{before} から {after} になりました。",
    "removed_reference": "これらの記録を使わずに学習したモデルでは {reference} です。",
    "removed_unseen": "どのモデルも見たことのない記録では、元のモデルで {unseen} です（推測で当たる割合です）。",
    "sure": "どの程度確かか",
    "sure_reference": (
        "保持する記録に対する予測は、対象の記録を使わずに学習したモデルの予測から、1 トークンあたり {kl} "
        "ナット離れています。0 であれば予測は同じです。"
    ),
    "sure_no_reference": (
        "対象の記録を使わずに学習したモデルは用意されていません。そのようなモデルにどれだけ近いかは分かりません。"
    ),
    "sure_membership": (
        "痕跡を調べる簡単な検査（損失による所属推定）では、消去した記録と未見の記録を AUC {auc}（{low}〜{high}）"
        "で区別しました。0.50 であれば区別できないことを意味します。"
    ),
    "sure_membership_reference": "対象の記録を使わずに学習したモデルで同じ検査をすると {auc} です。",
    "sure_no_membership": "痕跡を調べる検査は行っていません。未学習の評価用記録が必要です。",
    "sure_exposure": (
        "埋め込んだ秘密の露出度は {bits} ビットです。見たことのないモデルでは平均で約 1.4 ビットになります。"
    ),
    "cost": "費用と影響",
    "cost_run": "所要時間 {time}、勾配計算 {gradients} 回、最大メモリ {memory}。",
    "cost_kept": "保持する記録に対する正解率は {before} から {after} になりました。",
    "cost_not_kept": "保持する記録に対する正解率への影響は測定していません。",
    "open": "確認できていないこと",
    "card": "モデルカード用の記載",
    "card_hint": "このまま貼り付けられます（Markdown 形式）。",
    "card_title": "## アンラーニング",
    "card_method": "- 手法: {label}（`{name}`）、fastunlearn {version}、{created}",
    "card_forget": "- 消去の対象: {records} 件、正解率は消去前 {before}、消去後 {after}",
    "card_forget_reference": "- 対象の記録を使わずに学習したモデルの正解率: {reference}",
    "card_retain": "- 保持する記録に対する正解率: 消去前 {before}、消去後 {after}",
    "card_kl": "- 対象の記録を使わずに学習したモデルとの KL（保持する記録）: 1 トークンあたり {kl} ナット",
    "card_membership": "- 損失による所属推定: AUC {auc}（{low}〜{high}）",
    "card_limit": (
        "- 痕跡が残っていないことを主張するものではありません。与えられた記録に対する予測を比較したもので、"
        "より強い攻撃では痕跡が見つかる可能性があります。"
    ),
    # further metrics and attacks
    "more_metrics": "その他の指標",
    "more_metrics_note": (
        "範囲は記録についての 95 % 信頼区間です。消去した記録では、再学習モデルの値に近いことが目標であり、"
        "それより高くても低くても望ましくありません。各指標の定義: docs/metrics.md"
    ),
    "attacks": "攻撃",
    "attacks_note": (
        "攻撃の前 → 後の値と、回復した量（95 % 信頼区間）です。再学習モデルの回復量を超える分が、"
        "残っていた記憶に当たります。各攻撃の内容: docs/attacks.md"
    ),
    "column_metric": "指標と記録",
    "column_attack": "攻撃と尺度",
    # details of each run
    "original": "元のモデル",
    "retrained": "再学習モデル",
    "before_unlearning": "消去前",
    "without_forgotten": "対象の記録なしで学習",
    "first_order": "一次手法",
    "second_order": "二次手法",
    "kind_unknown": "作成方法の記録なし",
    "run_facts": "{kind}、勾配計算 {gradients} 回、{time}",
    "stopped": "終了理由: {}",
    "steps": "{} ステップ",
    "aria_steps": "ステップの一覧",
    "aria_sets": "損失と正解率",
    "records": "記録",
    "loss": "損失（ナット）",
    "perplexity": "パープレキシティ",
    "accuracy": "正解率",
    "forgotten": "消去対象",
    "retained": "保持",
    "held_out": "未見",
    # the table
    "aria_results": "すべてのモデルの結果",
    "group_accuracy": "正解率",
    "group_kl": "再学習モデルとの KL（ナット）",
    "group_leaks": "漏えい（露出度はビット）",
    "group_cost": "費用",
    "column_model": "モデル",
    "column_forgotten": "消去対象",
    "column_retained": "保持",
    "column_held_out": "未見",
    "column_membership": "所属推定 AUC",
    "column_exposure_forget": "露出度、消去対象",
    "column_exposure_retain": "露出度、保持",
    "column_gradients": "勾配計算",
    "column_time": "時間",
    "column_memory": "最大メモリ",
    "column_uses": "保持記録の使用",
    "tag_closest": "再学習に最も近い",
    "tag_not_enough": "消去が不十分",
    "table": (
        "手法は比較の順に並んでいます。十分に消去できたものが先で、保持する記録での KL が小さい順です"
        "（再学習モデルがない場合は、保持する記録の正解率が高い順）。"
        "「–」は測定していないことを示します。勾配計算は、記録 1 件を 1 回逆伝播するごとに 1 回と数えます。"
        "元のモデルと再学習モデルの費用は、その学習にかかったものです。時間とメモリは、この実行環境での今回の値です。"
    ),
    # the plot
    "plot": "消去の度合いと再学習モデルからの距離",
    "no_plot": "図はありません。図には、各手法について、再学習モデルとの KL か、保持する記録での正解率が必要です。",
    "plot_method": "{label}: 消去対象の正解率 {accuracy}、{value}。",
    "plot_kl": "KL {}",
    "plot_retained": "保持 {}",
    "enough": "十分に消去 →",
    "axis_kl": "保持する記録での再学習モデルとの KL（ナット）",
    "axis_kl_short": "再学習モデルとの KL（保持）",
    "axis_retained": "保持する記録での正解率",
    "axis_up": "{axis} {better}",
    "closer": "↓ 再学習に近い",
    "closer_short": "↓ 近い",
    "more_kept": "↑ よく保持",
    "axis_forgotten": "消去対象の正解率（→ より多く消去）",
    "caption": (
        "元のモデル（×印）から終点（文字付きの印）までの、各手法の道筋です。小さな点は、途中のステップと、"
        "試したほかの設定です。塗りつぶした印と実線は二次手法、白抜きの印と破線は一次手法です。"
    ),
    "caption_unknown": "灰色の印と点線は、作成方法の記録がないモデルです。",
    "caption_reference": "星印は再学習モデル（KL は 0）で、対数目盛の下に示しています。",
    "caption_limit": "色の付いた範囲では、消去対象の正解率が {} 以下です。",
    # the verdict
    "verdict_none": "手法が実行されていないため、比較できません。",
    "verdict_goal": "（消去対象の正解率が {} 以下）",
    "verdict_not_enough": (
        "目標{goal}まで消去できた手法はありません。最も近かったのは {label} で、正解率は {accuracy} です。"
    ),
    "verdict_no_reference": (
        "比較のための再学習モデルはありません。{label} により、消去対象の正解率は {before} から {after} "
        "になりました{kept}。"
    ),
    "verdict_kept": "（保持する記録では {}）",
    "verdict_closest": (
        "再学習に最も近かったのは {label} で、保持する記録での KL は {kl} ナットです{compared}{among}。"
    ),
    "verdict_among": "。十分に消去できた {reached} 手法（全 {all} 手法中）での比較です{goal}",
    "verdict_no_kind": "（比較できる{kind}は実行していません）",
    "verdict_no_kind_enough": "（同じだけ消去できた{kind}はありません）",
    "verdict_as_near": "。最良の{kind}（{stated}）と同じです",
    "verdict_before": "。最良の{kind}（{stated}）より近い値です",
    "verdict_hardly": "。最良の{kind}（{stated}）とほぼ同じです",
    "verdict_times": "。最良の{kind}（{stated}）の {times} 分の 1 の距離です",
    # explanations
    "reading": (
        (
            "正解率",
            "採点するトークンのうち、モデルが最も高い確率を与えたものが正解である割合です。"
            "消去対象では再学習モデルの値まで下がり（推測で当たるものもあるため 0 にはなりません）、"
            "保持する記録では変わらないことが望まれます。どのモデルも見ていない未見の記録での値は、"
            "推測でどれだけ当たるかを示します。",
        ),
        (
            "再学習モデルとの KL",
            "対象の記録なしで新たに学習したモデルの予測から、どれだけ離れているかを示します。KL（再学習モデル || "
            "モデル）の、採点するトークンについての平均（ナット）です。0 であれば予測は同じです。"
            "シードを変えて再学習したモデルどうしでも 0 にはなりません。",
        ),
        (
            "所属推定 AUC",
            "消去した記録の損失が未見の記録の損失より小さい確率です。0.5 なら損失では区別できず、1 "
            "なら必ず区別できます。0.5 より大きく下回る場合は、未見の記録よりも予測が悪いことになり、"
            "これも手がかりになります。二つの集合はもともと異なることがあるため、0.5 "
            "だけでなく再学習モデルの値とも比べてください。区間は記録についてのブートストラップで、"
            "特に断りがなければ 95 % です。これは簡単な攻撃であり、より強い攻撃があります。",
        ),
        (
            "露出度",
            "カナリアは、無作為に選んだ秘密を含む記録です。露出度は log2（ありうる秘密の数）から "
            "log2（正しい秘密の順位）を引いた値で、すべての候補について順位を数え、カナリアについて平均しています。"
            "最大値（候補が 1000 個なら 10.0 ビット）は、モデルがその秘密を第 1 位とすることを意味します。"
            "見たことのないモデルの平均は約 1.4 ビットです。",
        ),
        (
            "勾配計算、時間、最大メモリ",
            "手法の実行にかかったもので、測定は含みません。勾配計算 1 回は、記録 1 件の損失を 1 "
            "回逆伝播することです。",
        ),
        (
            "保持記録の使用",
            "その手法が、保持する記録を参照したかどうかです。",
        ),
    ),
    "limits": (
        "重みだけでは何も証明できません。この報告は、与えられた記録に対する予測を比較したものです。"
        "消去した記録の痕跡がまったく残っていないことを示すものではありません。",
        "消去は、与えられた形の記録に対して行われます。言い換えた文や、学習データの別の場所にある写しは、"
        "対象として挙げられていなければ含まれません。",
        "一つのモデルと一組のデータについて、一つのシードで一度だけ行った比較です。KL の小さな差は、"
        "シードを変えると逆転することがあります。",
    ),
}
