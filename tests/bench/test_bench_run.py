"""A whole run on a tiny random model: every line has a value and a limit, and what fails or lacks is told."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from cpmv.bench import peers
from cpmv.bench import run as run_module
from cpmv.bench.__main__ import main
from cpmv.bench.busy import BusyShare, mean_share
from cpmv.bench.peers import PeerError, open_peer
from cpmv.bench.plan import Options, choose_plan, needed_tokens
from cpmv.bench.random_model import random_config
from cpmv.bench.run import run
from cpmv.bench.workloads import Decode, Throughput
from cpmv.errors import CpmvError
from cpmv.weights.catalogue import empty_model

SIZES = {
    "decode": (1, 40, 3, 24),
    "decode_steps": (2,),
    "prefill": (48,),
    "vision": (1, 10),
    "frames": (6,),
    "requests": (3,),
    "answer": (5,),
}
ARGUMENTS = [f"--sizes={name}={','.join(map(str, values))}" for name, values in SIZES.items()]


@pytest.fixture(autouse=True)
def small_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.bench.machine._PROBE_BYTES", {"cpu": 4 << 20})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpmv.bench.machine._PROBE_BYTES", {"cpu": 4 << 20})
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("clips")))
        return run(Options(random="tiny", quick=True, sizes=SIZES), kernel_table=True)


def test_every_line_has_a_value_and_a_limit(result: dict[str, Any]) -> None:
    assert result["failed"] == []
    assert [row["key"] for row in result["rows"]] == [
        "decode-b1-c40",
        "decode-b3-c24",
        "prefill-48",
        "vision-slices-1",
        "vision-slices-10",
        "vision-frames-6",
        "first-token-slices-10",
        "first-token-frames-6",
        "throughput-3",
        "pictures-frames-6",
        "file-frames-6",
    ]
    for row in result["rows"]:
        ms = row["ms"]
        assert 0 < ms["min"] <= ms["median"] <= ms["max"] and ms["repeats"] >= 1, row["key"]
        assert row["limit_ms"] > 0 and row["percent_of_limit"] > 0, row["key"]
        assert row["percent_of_limit"] == pytest.approx(100 * row["limit_ms"] / ms["median"], rel=0.01)
    rates = {row["key"]: row["rate"] for row in result["rows"]}
    row = result["rows"][1]
    assert rates["decode-b3-c24"]["per_s"] == pytest.approx(3e3 / row["ms"]["median"], rel=0.01)
    assert result["memory"]["weights"] > 1e6 and result["memory"]["peak_resident"] > 1e7
    assert result["abilities"]["read_bytes_per_s"] > 0
    assert all("| kernel |" in table[2] for table in result["kernels"].values())
    assert json.loads(json.dumps(result)) == result


def test_a_failing_line_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(run_module.Prefill, "prepare", broken)
    code = main(["--random", "tiny", "--quick", "--only", "decode,prefill", *ARGUMENTS])
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert code == 1 and len(found["rows"]) == 2
    assert "failed: prefill, 48 tokens: RuntimeError" in out


def test_lines_after_the_time_limit_are_told_and_left_out() -> None:
    found = run(Options(random="tiny", quick=True, only=("decode", "prefill"), sizes=SIZES, limit_s=0.0))
    assert found["rows"] == []
    assert [note for note in found["notes"] if "prefill, 48 tokens: not measured" in note]


def test_a_missing_decoder_of_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.importlib.util, "find_spec", lambda name: None)
    found = run(Options(random="tiny", quick=True, only=("file",), sizes=SIZES))
    assert [row["key"] for row in found["rows"]] == ["pictures-frames-6"]
    assert found["rows"][0]["prepared_ms"] < found["rows"][0]["ms"]["max"]
    assert "PyAV is not installed" in found["notes"][0]


class Asked:
    """A request that wants so many tokens."""

    def __init__(self, left: int) -> None:
        self.output: str | None = None
        self.num_generated, self.left = 0, left


class Counter:
    """An engine that hands out one token a step and notes how many requests it had."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.most = 0

    def add(self, inputs: Any, params: Any) -> Any:
        request = Asked(params.max_new_tokens)
        self.running.append(request)
        return request

    def step(self) -> bool:
        self.most = max(self.most, len(self.running))
        for request in self.running:
            request.num_generated += 1
            request.left -= 1
            if not request.left:
                request.output = "done"
        self.running = [request for request in self.running if request.output is None]
        return bool(self.running)

    def cancel(self, request: Any) -> None:
        self.running.remove(request)


@pytest.fixture
def bench() -> Any:
    config = random_config("tiny", "bf16")
    network: Any = types.SimpleNamespace(config=config, device=torch.device("cpu"))
    machine: Any = None
    from cpmv.bench.workloads import Bench

    processor: Any = None
    engine: Any = Counter()
    return Bench(network, engine, machine, 0, torch.Generator().manual_seed(0), processor)


def test_throughput_keeps_so_many_in_flight_and_no_more(bench: Any) -> None:
    work = Throughput(bench, in_flight=4, answer=6).prepare()
    bench.engine.most = 0
    assert work() > 0
    assert bench.engine.most == 4 and bench.engine.running == []


def test_decoding_counts_the_tokens_that_came(bench: Any) -> None:
    decode = Decode(bench, rows=3, context=8, steps=5)
    work = decode.prepare()
    before = sum(request.num_generated for request in bench.engine.running)
    assert work() > 0
    assert sum(request.num_generated for request in bench.engine.running) - before == 15
    decode.finish()
    assert bench.engine.running == []


def test_pictures_have_a_place_for_every_group(bench: Any) -> None:
    inputs = bench.pictures(2, 3, video=True)
    queries = bench.config.resampler.query_num
    assert (inputs.image_bounds[:, 1] - inputs.image_bounds[:, 0]).tolist() == [queries] * 2
    assert len(inputs.tgt_sizes) == 6 and len(inputs.patches) == int(inputs.tgt_sizes.prod(1).sum())
    assert [len(times) for times in inputs.temporal_ids] == [3, 3]
    again = bench.unseen(inputs)
    assert not set(inputs.media_hashes) & set(again.media_hashes) and again.patches is inputs.patches


def test_plans_fit_the_context_and_the_cache() -> None:
    network = empty_model(random_config("tiny", "bf16"))
    plan = choose_plan(Options(sizes={"decode": (1, 40000, 1, 50000), "prefill": (40959, 40960)}), network)
    assert plan.decode == ((1, 40000),) and plan.prefill == (40959,)
    assert needed_tokens(plan, 64) >= 40960


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "x"], "--only does not know 'x'; give some of decode"),
        (["--peer", "y"], "--peer does not know 'y'; give some of transformers"),
        (["m", "--random", "tiny"], "both MODEL 'm' and --random"),
        (["--format", "awq"], "--format is for --random"),
        (["--sizes", "decode=1"], "--sizes 'decode=1' cannot be read"),
        (["--sizes", "rows=1"], "a name of decode"),
        (["--sizes", "prefill=0"], "--sizes 'prefill=0' cannot be read"),
        (["--random", "tiny", "--format", "q9"], "format 'q9'; give one of bf16"),
        (["--nope"], "--nope; see cpmv bench --help"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(CpmvError, match=said.replace("(", r"\(")) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_a_peer_that_is_not_installed_is_told(name: str, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PeerError, match=f"{name} is not installed, so it is not compared with"):
        open_peer(name, bench, None)


def test_llama_bench_is_run_with_the_sizes_of_the_line(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PeerError, match="give MODEL as a .gguf file|not on the PATH"):
        open_peer("llama.cpp", bench, None)
    program = tmp_path / "llama-bench"
    asked_file = tmp_path / "asked"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"with open({str(asked_file)!r}, 'a') as file:\n    print(*sys.argv[1:], file=file)\n"
        "print(json.dumps([{'avg_ts': 50.0, 'build_commit': 'abc'}]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    peer = open_peer("llama.cpp", bench, "model.gguf")
    assert peer.works("prefill-512")["llama.cpp"]() == pytest.approx(512 / 50)
    assert peer.works("decode-b1-c1024")["llama.cpp"]() == pytest.approx(1 / 50)
    assert peer.works("decode-b8-c1024") == {} and peer.works("vision-slices-1") == {}
    assert peer.versions == {"llama.cpp": "abc"}
    asked = asked_file.read_text().splitlines()
    assert asked[0].endswith("-p 512 -n 0") and asked[1].endswith("-p 0 -n 16 -d 1024")


def test_vllm_is_asked_for_the_same_work(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class LLM:
        def __init__(self, folder: str, **options: Any) -> None:
            fields = json.loads(Path(folder, "config.json").read_text())
            assert fields["hidden_size"] == bench.config.language.hidden_size and options["load_format"] == "dummy"

        def generate(self, prompts: list[Any], params: Any, use_tqdm: bool) -> None:
            asked.append((len(prompts), len(prompts[0]["prompt_token_ids"]), params.max_tokens))

    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.__version__ = LLM, lambda **k: types.SimpleNamespace(**k), "1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    peer = open_peer("vllm", bench, None)
    peer.works("decode-b8-c1024")["vllm"]()
    peer.works("prefill-4096")["vllm"]()
    assert asked == [(8, 1024, 33), (8, 1024, 1), (1, 4096, 1)]
    assert peer.works("vision-slices-10") == {}


def test_transformers_shares_our_weights() -> None:
    pytest.importorskip("transformers")
    found = run(
        Options(random="tiny", quick=True, only=("decode", "prefill", "vision"), sizes=SIZES, peers=("transformers",))
    )
    assert found["failed"] == []
    assert any("same likeliest token at 100%" in note for note in found["notes"])
    by_key = {row["key"]: row.get("peers", {}) for row in found["rows"]}
    assert set(by_key["decode-b1-c40"]) == {"transformers", "transformers, static cache"}
    assert by_key["vision-slices-1"] and by_key["prefill-48"]


def test_the_busy_share_is_the_mean_of_inner_samples() -> None:
    assert mean_share("3\n50\n90\n100\n80\n10\n") == pytest.approx(0.9)
    assert mean_share("") is None and mean_share("[N/A]\n") is None
    with BusyShare(torch.device("cpu")) as busy:
        pass
    assert busy.share is None
