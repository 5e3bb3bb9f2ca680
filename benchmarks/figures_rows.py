"""The rows of the tables of docs/measured.md: what was measured, ours, and the other side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.figures import Json, Row


def _edge(name: str) -> Callable[[Json], Json]:
    return lambda result: result["rows"][name]


def _parts(result: Json, name: str, key: str, of: Sequence[str]) -> str:
    found = result["rows"][name][key]
    return ", ".join(f"{found[each]['ratio']:.2f}" for each in of)


def _task(result: Json, task: str) -> str:
    models = ("qwen2.5-coder-0.5b-instruct-q4_k_m", "qwen2.5-coder-1.5b-instruct-q4_k_m")
    tasks = result["rows"]["drafts"]["tasks"]
    return " and ".join(f"{tasks[f'{model}, {task}']['ratio']:.2f}x" for model in models)


def _loss(result: Json, model: str) -> str:
    kinds = result[model]["text"]
    return ", ".join(f"{kinds[kind]['divergence']:.4f}" for kind in ("q8_0/f16", "q8_0", "k8v4"))


def _left_out(result: Json) -> str:
    found = result["left_out"]
    names = ("Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B", "SmolLM2-135M")
    return ", ".join(f"{found[name]['auroc']:.2f}" for name in names)


def _best_single(result: Json) -> str:
    found = result["left_out"]
    names = ("Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B", "SmolLM2-135M")
    means = ", ".join(f"{found[name]['singles_over_all']['mean_logprob']:.2f}" for name in names)
    return f"their mean log-probability {means}; a coin 0.50"


def _signal(result: Json, name: str) -> str:
    signals = result["check"]["Qwen2.5-Coder-0.5B"]["auroc_of_pairs_within_sets"]
    return f"{signals[name]['value']:.2f}"


def _kept(found: Json, name: str) -> str:
    row = found["models"][name]
    return f"{row['mean_kld']:.4f}, {row['perplexity_change']:+.1%}"


def _by_share(found: Json, who: str) -> str:
    replay = found["replay"]
    at = [replay["shares"].index(share) for share in (0.2, 0.3, 0.5)]
    return ", ".join(f"{replay['accuracy'][who][place]:.1%}" for place in at)


def _hybrid(result: Json, name: str) -> str:
    shares = result["check"]["Qwen2.5-Coder-0.5B"]["hybrid"][name]
    return f"{shares['20%']:.1%}, {shares['30%']:.1%}"


def _seen(result: Json, side: str) -> str:
    found = result["sides"][side]
    return f"{found['passages']['ours']:.3f}, {found['same_texts']}, {found['choice']['ours']:.2f}"


def _seen_by_hf(result: Json) -> str:
    found = result["sides"]["near"]
    error = found["choice"]["standard_error"]
    return (
        f"its own `hf` on the decoded weights: {found['passages']['hf']:.3f}, -, "
        f"{found['choice']['hf']:.2f} +- {error:.2f}"
    )


_SMOL, _QWEN = "smollm2-135m-instruct-q4_1", "qwen2.5-coder-0.5b-instruct-q4_k_m"

REAL = (
    Row(
        "one answer, tokens/s",
        "edge_models.json",
        lambda r: f"{_edge('one_answer')(r)['ratio']:.2f}x",
        "llama-cpp-python's defaults (one thread of two cores)",
        "one_answer",
    ),
    Row(
        "the same, threads chosen at each step: idle, one core busy, all busy, on and off",
        "edge_models.json",
        lambda r: _parts(
            r,
            "loads",
            "loads",
            ("idle", "one core busy", "every core busy", "one core busy 3 s in 6"),
        ),
        "the best fixed number of threads in each",
        "loads",
    ),
    Row(
        "2, 4 and 8 answers at once, tokens/s in all",
        "edge_models.json",
        lambda r: _parts(r, "at_once", "answers", "248"),
        "plain llama.cpp with batches of as many",
        "at_once",
    ),
    Row(
        "four HTTP clients at once, tokens/s in all",
        "edge_models.json",
        lambda r: f"{_edge('served')(r)['ratio']:.2f}x",
        "`llama_cpp.server`",
        "served",
    ),
    Row(
        "first token of a prompt of 640 and of 6,000 tokens, in speed",
        "edge_models.json",
        lambda r: _parts(
            r,
            "first_token",
            "prompts",
            ("640 tokens, our defaults beside f16", "6000 tokens, our defaults beside f16"),
        ),
        "plain llama.cpp, f16 cache",
        "first_token",
    ),
    Row(
        "2,048 tokens read with keys in 8 bits (`q8_0/f16`), and all in 8 bits",
        "edge_models.json",
        lambda r: ", ".join(
            f"{ways[way]['prompt_tokens_per_s'] / ways['f16']['prompt_tokens_per_s']:.2f}"
            for ways in [_edge("compressed")(r)["ways"]]
            for way in ("q8_0/f16", "q8_0")
        ),
        "itself with an f16 cache",
        "compressed",
    ),
    Row(
        '`ask "Say hi"` from shell to end: seconds, memory',
        "edge_models.json",
        lambda r: (
            f"{_edge('ask')(r)['times_as_long']:.2f}x as long, "
            f"{_edge('ask')(r)['times_the_memory']:.2f}x the memory"
        ),
        "eight lines of llama-cpp-python",
        "ask",
    ),
    Row(
        "a file written again with one name changed, 0.5B and 1.5B, drafts from the text",
        "edge_models.json",
        lambda r: _task(r, "a file written again with one name changed"),
        "itself without drafts",
        "drafts",
    ),
    Row(
        "code repair, a summary, a story: the same",
        "edge_models.json",
        lambda r: "; ".join(_task(r, task) for task in ("code repair", "a summary", "a story")),
        "itself without drafts",
        "drafts",
    ),
    Row(
        "first token at turn 60 of a chat past its context",
        "edge_models.json",
        lambda r: f"{_edge('long_chat')(r)['ratio']:.1f}x sooner",
        "llama-cpp-python, cutting and reading again",
        "long_chat",
    ),
    Row(
        "a session of 2,000 tokens, from disk",
        "edge_models.json",
        lambda r: f"{_edge('session')(r)['ours']:.2f} s",
        lambda r: f"{_edge('session')(r)['theirs']:.0f} s to read it again",
        "session",
    ),
    Row(
        "loss of a KV cache in `q8_0/f16`, `q8_0`, `k8v4` on 2,000 tokens of text: mean KL, 135M",
        "kv_real.json",
        lambda r: _loss(r, _SMOL),
        "f16: 0",
    ),
    Row("the same, 0.5B", "kv_real.json", lambda r: _loss(r, _QWEN), "f16: 0"),
    Row(
        "near right or wrong, told on models and sets it was not fitted to "
        "(AUROC; 0.5B, 1.5B, 135M)",
        "policy_real.json",
        _left_out,
        _best_single,
    ),
    Row(
        "the same of 242 answers of the 0.5B, pairs within sets: the 1.5B reads them (check)",
        "together.json",
        lambda r: f"{_signal(r, 'check (rule and far mean, five folds)')}",
        lambda r: (
            f"the rule of the first day {_signal(r, 'rule of the first day')}, their mean "
            f"log-probability {_signal(r, 'near mean_logprob')}"
        ),
    ),
    Row(
        "right where the far model writes 20% and 30% of the answers: chosen by check",
        "together.json",
        lambda r: _hybrid(r, "check (rule and far mean, five folds)"),
        lambda r: f"by the rule of the first day {_hybrid(r, 'rule of the first day')}",
    ),
    Row(
        "SmolLM2-135M at Q4_K_M's size: mean KL divergence, perplexity",
        "quantize_smollm2.json",
        lambda r: f"planned mix {_kept(r, 'plan')}",
        lambda r: (
            f"Q4_K_M with importance {_kept(r, 'q4_k_m importance')}, without "
            f"{_kept(r, 'q4_k_m')}, `q4_0` {_kept(r, 'q4_0')}"
        ),
    ),
    Row(
        "the same weights moved off the grid that they were decoded from",
        "quantize_smollm2_moved.json",
        lambda r: f"planned mix {_kept(r, 'plan')}",
        lambda r: (
            f"Q4_K_M with importance {_kept(r, 'q4_k_m importance')}, without "
            f"{_kept(r, 'q4_k_m')}, `q4_0` {_kept(r, 'q4_0')}"
        ),
    ),
    Row(
        "0.5B near, 1.5B far, 311 questions, model and sets unseen: right with 20%, 30% and 50% "
        "asked far",
        "hybrid_real.json",
        lambda r: _by_share(r, "rule of the first day"),
        lambda r: (
            f"by mean log-probability {_by_share(r, 'mean log-probability')}; at random "
            f"{_by_share(r, 'at random')}; who knows when near is right "
            f"{_by_share(r, 'knows when near is right')}"
        ),
    ),
    Row(
        "first word of a stream by `auto` that stays near",
        "together.json",
        lambda r: f"{r['seconds']['median_ratio']:.2f}x as late",
        lambda r: f"`auto-local`; held to its end {r['seconds']['median_ratio_if_held']:.1f}x",
    ),
    Row(
        "SmolLM2-135M in float32 by `nearfar cloud serve`, as lm-evaluation-harness sees it: word "
        "perplexity of 8 passages, 16 greedy texts the same, accuracy of 16 choices",
        "lm_eval_sides.json",
        lambda r: _seen(r, "far, float32"),
        _seen_by_hf,
    ),
    Row(
        "the same model's GGUF by `nearfar serve`",
        "lm_eval_sides.json",
        lambda r: _seen(r, "near"),
        _seen_by_hf,
    ),
    Row(
        "a reader's whole answer beside 32 batch requests, 135M",
        "batch_priority.json",
        lambda r: f"{r['ratios_to_alone']['batch']['whole_s']:.2f}x as long as alone",
        lambda r: f"beside 32 of other readers {r['ratios_to_alone']['equals']['whole_s']:.1f}x",
    ),
    Row(
        "from 1 to 40 clients, 135M: seconds until a second replica is asked for, and ready",
        "scaling.json",
        lambda r: (
            f"{r['seconds_to_decide']:.1f}, {r['seconds_to_replicas_ready']['2']:.0f}; "
            f"{r['requests']['whole']} of {r['requests']['asked']} whole"
        ),
        "-",
    ),
    Row(
        "0.5B near, 1.5B far, 311 questions, model and sets unseen: the way from random to perfect "
        "self-knowledge",
        "policy_real.json",
        lambda r: f"{r['pairs']['Qwen2.5-Coder-0.5B']['way']['rule']:.2f}",
        lambda r: (
            "mean log-probability "
            f"{r['pairs']['Qwen2.5-Coder-0.5B']['way']['mean_logprob']:.2f}, least "
            f"{r['pairs']['Qwen2.5-Coder-0.5B']['way']['least']:.2f}"
        ),
    ),
)


SMALL = (
    Row(
        "hybrid on the embedded pair's 240 test questions (`scripts/demo --json FILE`): right, "
        "asked far",
        "demo.json",
        lambda r: f"{r['hybrid_accuracy']:.1%}, {r['escalated_share']:.1%}",
        lambda r: f"near only {r['edge_accuracy']:.1%}, far only {r['cloud_accuracy']:.1%}",
    ),
    Row(
        "MMLU outcomes, prompt only, 1,500 labels: APGR",
        "routing.json",
        lambda r: (
            f"{r['mmlu']['prior']['mean']['apgr']:.3f} +- "
            f"{r['mmlu']['prior']['std']['apgr']:.3f} over {r['seeds']} draws"
        ),
        lambda r: (
            f"TF-IDF with two heads {r['mmlu']['tfidf_two_heads']['mean']['apgr']:.3f}; random 0.5"
        ),
    ),
    Row(
        "GSM8K outcomes, prompt only: APGR",
        "routing.json",
        lambda r: f"{r['gsm8k']['prior']['pooled']['apgr']:.3f}, worse than plain",
        lambda r: f"TF-IDF with two heads {r['gsm8k']['tfidf_two_heads']['pooled']['apgr']:.3f}",
    ),
    Row(
        "a 3M model at Q4_K_M's size: mean KL divergence",
        "quantize_stories3M.json",
        lambda r: (
            f"planned mix {_less(r['ratios_of_mean_kld']['plan / Q4_K_M with importance'])} lower"
        ),
        "Q4_K_M with importance",
    ),
    Row(
        "the same model, GPTQ 4 bit in groups of 64: mean KL divergence",
        "quantize_stories3M.json",
        lambda r: f"{_less(r['ratios_of_mean_kld']['GPTQ / GPTQModel, coarse groups'])} lower",
        "GPTQModel 7.6",
    ),
    Row(
        "the same model, KV cache of 512 tokens in 4 bit: mean KL divergence",
        "small_gpu_kv.json",
        lambda r: _cache(r["kv"]["stories3M"]["torch"]["int4, no residual"]),
        lambda r: f"llama.cpp q4_0 {_cache(r['kv']['stories3M']['llama.cpp']['q4_0'])}",
    ),
    Row(
        "100,000 requests over a link that is cut, stalled, corrupted and killed: lost or wrong, "
        "run twice",
        "link_chaos.json",
        lambda r: (
            f"{sum(r['account'][key] for key in ('wrong', 'hung', 'broke'))}, "
            f"{r['account']['ran_twice']}"
        ),
        "-",
    ),
    Row(
        "10,000 private requests under faults: traces on the wire, in logs, errors, files",
        "privacy_leak.json",
        lambda r: f"{r['leaked']}",
        lambda r: f"the same search finds {r['num_public_on_the_wire']:,} of the public ones",
    ),
    Row(
        "private values found in unseen text: recall, precision",
        "privacy.json",
        lambda r: f"{r['sets'][0]['recall']:.3f}, {r['sets'][0]['precision']:.3f}",
        "-",
    ),
    Row(
        "one answer of a random 0.5B shape while one core is busy "
        "([picture](../benchmarks/edge.svg))",
        "edge.json",
        lambda r: f"{_edge('chat_busy')(r)['ratio']:.2f}x",
        "llama-cpp-python on all cores",
    ),
    Row(
        "cloud engine on a CPU, embedded model, one request: plain, with lookup drafts",
        "cloud.json",
        lambda r: (
            f"{r['rows']['batch-1/nearfar-cloud']['ratio_without_drafts']:.2f}x, "
            f"{r['rows']['batch-1/nearfar-cloud']['ratio']:.1f}x"
        ),
        "`transformers.generate`",
    ),
    Row(
        "16 requests of mixed lengths",
        "cloud.json",
        lambda r: f"{r['rows']['mixed-16/nearfar-cloud']['ratio']:.2f}x",
        "transformers' `generate_batch`",
    ),
    Row(
        "requests that arrive at random: mean latency",
        "cloud.json",
        lambda r: f"{r['rows']['poisson/nearfar-cloud']['less_mean_latency']:.0%} less",
        "itself with fixed batches of eight",
    ),
    Row(
        "a newcomer's first token beside 1,000 requests of another device, in its service times",
        "fair.json",
        lambda r: f"{r[0]['worst_wait_in_service_times']:.2f} at worst",
        lambda r: f"steps of 2,048 tokens {r[1]['worst_wait_in_service_times']:.1f}",
    ),
    Row(
        "a calibrated aim of at most 5% wrong kept near, 1,000 draws at each of three widths: "
        "broken",
        "policy.json",
        lambda r: (
            f"{max(each['promises']['0.05']['violations'] for each in r['live'].values()):.1%} "
            "at most"
        ),
        "5% allowed",
    ),
    Row(
        "link, 1 KiB and back with CURVE",
        "link.json",
        lambda r: f"{r['round_trip_1KiB']['link_curve_p50_ms']:.2f} ms",
        lambda r: f"bare pyzmq without it {r['round_trip_1KiB']['bare_p50_ms']:.2f} ms",
    ),
    Row(
        "GPTQ of a 0.5B shape, two layers, 8k tokens, two cores",
        "quantize_scale_gptqmodel.json",
        lambda r: _job(r, "gptq"),
        lambda r: f"GPTQModel 7.6: {_job(r, 'gptqmodel')}",
    ),
    Row(
        "four requests of a Hugging Face folder at once, float32 and int4: tokens/s",
        "small_gpu_batch.json",
        lambda r: " and ".join(
            f"{r['batch'][kind]['together / one after another']:.2f}x"
            for kind in ("float32", "gptq int4")
        ),
        "one after another",
    ),
    Row(
        "attention of a token over a ring cache in 8 bits, 200, 800, 2,000 tokens stored: blocks "
        "read where they lie",
        "ring_attention.json",
        lambda r: ", ".join(f"{r['rows'][f'int8, {n}']['ratio']:.2f}x" for n in (200, 800, 2000)),
        "a copy of all in order, taken below 512",
    ),
    Row(
        "int4 product on a CPU, one row of 4864 x 896 (896 x 896)",
        "small_gpu_linear.json",
        lambda r: (
            f"{r['linear']['4864x896']['float32 / int4']:.1f}x as quick "
            f"({r['linear']['896x896']['float32 / int4']:.1f}x)"
        ),
        "float32 `nn.Linear`",
    ),
)

TABLES = {"on real models": REAL, "on small and random models": SMALL}


def _less(ratio: Json) -> str:
    return f"{1 - ratio['mean']:.0%}"


def _cache(kind: Json) -> str:
    return f"{kind['mean_kld']:.4f} in {kind['bytes_of_512_tokens'] / 1e6:.2f} MB"


def _job(result: Json, job: str) -> str:
    run = next(run for run in result["runs"] if run["job"] == job)
    return f"{run['seconds']:.0f} s, {run['peak_memory_bytes'] / 1e9:.2f} GB at most"
