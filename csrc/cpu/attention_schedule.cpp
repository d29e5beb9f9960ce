#include "attention_schedule.h"

#include <algorithm>
#include <thread>

#include "attention_tiles.h"

namespace fu {

namespace {

// Tiles of keys in a span: more make packing of queries cheaper, fewer keep more threads busy.
constexpr int64_t kMostTiles = 4;
constexpr int64_t kEnoughSpans = 32;

}  // namespace

AttentionSchedule::AttentionSchedule(const AttentionProblem& p) {
    const int64_t pairs = p.batch * p.groups, per_head = tiles_of(p.queries), blocks = p.heads / p.groups * per_head;
    const int64_t tiles = tiles_of(p.keys);
    const int64_t width = std::clamp<int64_t>(pairs * tiles / kEnoughSpans, 1, kMostTiles);
    const int64_t spans = (tiles + width - 1) / width, diagonals = std::max(blocks, spans);
    std::vector<int64_t> last_of_block(size_t(pairs * blocks), -1), last_of_span(size_t(pairs * spans), -1);
    for (int64_t diagonal = 0; diagonal < diagonals; ++diagonal)
        for (int64_t pair = 0; pair < pairs; ++pair)
            for (int64_t span = 0; span < spans; ++span) {
                const int64_t block = (diagonal + span) % diagonals;
                if (block >= blocks) continue;
                const int64_t query = block % per_head * kTile, key = span * width * kTile;
                const int64_t keys = std::min(width * kTile, p.keys - key);
                if (!ScoreRule<float>::live(p.scores, query, std::min(kTile, p.queries - query), key, keys)) continue;
                int64_t &before_block = last_of_block[size_t(pair * blocks + block)],
                        &before_span = last_of_span[size_t(pair * spans + span)];
                const int64_t last = std::min(tiles, (span + 1) * width);
                pieces_.push_back({pair, block, span * width, last, before_block, before_span});
                before_block = before_span = int64_t(pieces_.size()) - 1;
            }
    done_ = std::make_unique<std::atomic<bool>[]>(pieces_.size());
    for (size_t n = 0; n < pieces_.size(); ++n) done_[n].store(false, std::memory_order_relaxed);
}

int64_t AttentionSchedule::take() {
    const int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
    if (piece >= int64_t(pieces_.size())) return -1;
    wait(pieces_[size_t(piece)].after_block);
    wait(pieces_[size_t(piece)].after_span);
    return piece;
}

void AttentionSchedule::wait(int64_t piece) const {
    if (piece < 0) return;
    while (!done_[size_t(piece)].load(std::memory_order_acquire)) std::this_thread::yield();
}

}  // namespace fu
