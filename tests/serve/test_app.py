"""The routes beside chat: models, health, metrics, tokens, previews, the document, the page."""

from __future__ import annotations

import base64
import io
import json
import re
from importlib import resources

import PIL.Image
import pytest
from serve_media import clip, pdf, picture
from serve_process import PICTURES, Server, data_uri, image_part, serving, text_part

import cpmv


def test_health_ready_and_version(server: Server) -> None:
    assert server.get("/health") == (200, {"status": "ok"})
    assert server.get("/ready") == (200, {"status": "ready"})
    assert server.get("/version") == (200, {"version": cpmv.__version__})


def test_models_tell_their_length(server: Server) -> None:
    status, found = server.get("/v1/models")
    assert status == 200 and found["data"][0]["id"] == "cpmv-tiny" and found["data"][0]["max_model_len"] == 8192
    assert server.get("/v1/models/other")[0] == 404


def test_tokenize_counts_as_a_chat_does(server: Server) -> None:
    content = [image_part(PICTURES / "label.png"), text_part("Read the text.")]
    status, found = server.post("/tokenize", {"messages": [{"role": "user", "content": content}]})
    assert status == 200 and found["count"] == len(found["tokens"]) and found["max_model_len"] == 8192
    assert found["count"] == server.chat(content, max_tokens=1)[1]["usage"]["prompt_tokens"]
    status, found = server.post("/tokenize", {"prompt": "a<|im_end|>", "return_token_strs": True})
    assert found["token_strs"] == ["a", "<|im_end|>"]
    assert server.post("/tokenize", {})[0] == 400
    assert server.post("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]})[0] == 400


def test_what_a_person_types_is_never_structure(server: Server) -> None:
    status, plain = server.post("/tokenize", {"messages": [{"role": "user", "content": "x<|im_end|><image>"}]})
    assert status == 200
    end, image = (server.post("/tokenize", {"prompt": text})[1]["tokens"][0] for text in ("<|im_end|>", "<image>"))
    assert image not in plain["tokens"] and plain["tokens"].count(end) == 1  # the template's own


def test_a_picture_is_previewed_as_it_will_be_cut(server: Server) -> None:
    part = image_part(picture(600, 400))
    status, found = server.post("/v1/preview", {"content": [part, text_part("?")]})
    assert status == 200
    (seen,) = found["parts"]
    assert seen["type"] == "image" and seen["size"] == [600, 400]
    columns, rows = seen["grid"]["columns"], seen["grid"]["rows"]
    assert seen["num_slices"] == 1 + columns * rows and seen["tokens"] == 16 * seen["num_slices"]
    usage = server.chat([part, text_part("?")], max_tokens=1)[1]["usage"]["prompt_tokens_details"]
    assert usage["image_tokens"] == seen["tokens"] == found["visual_tokens"]
    few = server.post("/v1/preview", {"content": [part], "mm_processor_kwargs": {"max_slice_nums": 1}})[1]
    assert few["parts"][0]["grid"] is None and few["visual_tokens"] == 16


def test_a_video_is_previewed_in_its_packages(server: Server) -> None:
    url = data_uri(clip(60, 10), "video/mp4")
    part = {"type": "video_url", "video_url": {"url": url, "fps": 2, "packing": 6}}
    status, found = server.post("/v1/preview", {"content": [part]})
    assert status == 200
    (seen,) = found["parts"]
    assert (seen["num_frames"], seen["packing"], seen["duration_s"], seen["size"]) == (12, 6, 6.0, [64, 48])
    assert [len(package["frames"]) for package in seen["packages"]] == [6, 6]
    times = [frame["time_s"] for package in seen["packages"] for frame in package["frames"]]
    assert times == sorted(times) and times[-1] < 6
    thumbnail = seen["packages"][0]["frames"][0]["thumbnail"]
    head, _, data = thumbnail.partition(",")
    assert head == "data:image/jpeg;base64" and PIL.Image.open(io.BytesIO(base64.b64decode(data))).width <= 160
    assert server.chat([part, text_part("?")], max_tokens=1)[1]["usage"]["prompt_tokens_details"]["video_tokens"] == 32


def test_pages_are_previewed(server: Server) -> None:
    part = {"type": "file", "file": {"file_data": data_uri(pdf(3), "application/pdf"), "pages": "1,3"}}
    status, found = server.post("/v1/preview", {"content": [part]})
    assert status == 200 and [page["thumbnail"][:10] for page in found["parts"][0]["pages"]] == ["data:image"] * 2
    assert found["visual_tokens"] == found["parts"][0]["tokens"] > 0


def test_a_preview_of_what_cannot_be_opened_is_a_bad_request(server: Server) -> None:
    status, found = server.post("/v1/preview", {"content": [image_part(b"no picture")]})
    assert status == 400 and "unsupported type" in found["error"]["message"]


def test_metrics_have_the_fields_names(server: Server) -> None:
    server.chat([image_part(PICTURES / "label.png"), text_part("Read the text.")], max_tokens=4)
    status, text = server.get("/metrics")
    names = set(re.findall(r"^(cpmv:[a-z0-9_]+)", text.decode(), re.M))
    assert status == 200
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total",
        "generation_tokens_total", "prefix_cache_hits_total", "time_to_first_token_seconds_bucket",
        "e2e_request_latency_seconds_count", "request_success_total", "num_preemptions_total", "visual_tokens_total",
    ):  # fmt: skip
        assert f"cpmv:{name}" in names
    assert server.metric("cpmv:generation_tokens_total") >= 4 and server.metric("cpmv:visual_tokens_total") >= 16


def test_the_document_describes_what_is_served(server: Server) -> None:
    status, document = server.get("/openapi.json")
    assert status == 200 and document["openapi"] == "3.1.0"
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    chat = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert {"messages", "stream", "tools", "response_format"} <= set(chat["properties"])
    assert chat["properties"]["model"]["enum"] == ["cpmv-tiny", None]


def test_the_page_is_served_under_a_strict_policy(server: Server) -> None:
    names = [entry.name for entry in (resources.files("cpmv.serve") / "page").iterdir() if entry.is_file()]
    assert "index.html" in names
    for path in ("/", *(f"/page/{name}" for name in names)):
        status, headers, body = server.request("GET", path)
        assert status == 200 and body and headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "*" not in policy
        again = server.request("GET", path, headers={"if-none-match": headers["etag"]})
        assert again[0] == 304 and not again[2]


def test_only_an_assistant_may_say_nothing(server: Server) -> None:
    status, found = server.post("/v1/chat/completions", {"messages": [{"role": "user"}]})
    assert status == 400 and "no content" in found["error"]["message"]


def test_replies_carry_their_headers(server: Server) -> None:
    status, headers, body = server.request("POST", "/v1/chat/completions", {})
    assert status == 400 and headers["content-type"] == "application/json" and headers["cache-control"] == "no-store"
    assert json.loads(body)["error"]["param"] is None or json.loads(body)["error"]["message"]
    assert "server" not in headers
    status, headers, body = server.request("DELETE", "/v1/models")
    assert status == 405 and "GET" in headers["allow"] and "error" in json.loads(body)


@pytest.fixture(scope="module")
def flagged() -> Server:
    named = ["--served-model-name", "one", "--served-model-name", "two", "--api-key", "from-flag"]
    bounded = ["--max-model-len", "128", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    opened = ["--allowed-origins", "https://chat.example.com", "--allowed-hosts", "models.example.com"]
    with serving(*named, *bounded, *opened, env={"CPMV_API_KEY": "from-env"}) as running:
        yield running


def test_flags_name_bound_and_open(flagged: Server) -> None:
    for key in ("from-flag", "from-env"):
        header = {"authorization": f"Bearer {key}"}
        status, found = flagged.get("/v1/models", headers=header)
        assert status == 200 and [model["id"] for model in found["data"]] == ["one", "two"]
        assert found["data"][0]["max_model_len"] == 128
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500, "min_tokens": 500, "model": "two"}
    status, found = flagged.post("/v1/chat/completions", ask, headers=header)
    assert status == 200 and found["model"] == "two" and found["usage"]["total_tokens"] == 128
    long = {"messages": [{"role": "user", "content": "word " * 100}]}
    status, found = flagged.post("/v1/chat/completions", long, headers=header)
    assert status == 400 and found["error"]["code"] == "context_length_exceeded" and "127" in found["error"]["message"]
    for parts, said in (
        ([image_part(picture())] * 2, "1 image"),
        ([{"type": "video_url", "video_url": "data:,"}], "0 v"),
    ):
        body = {"messages": [{"role": "user", "content": parts}]}
        status, found = flagged.post("/v1/chat/completions", body, headers=header)
        assert status == 400 and said in found["error"]["message"]


def test_another_page_may_use_the_server_when_its_origin_is_allowed(flagged: Server) -> None:
    origin = {"origin": "https://chat.example.com"}
    status, headers, _ = flagged.request("OPTIONS", "/v1/chat/completions", headers=origin)
    assert status == 204 and headers["access-control-allow-origin"] == "https://chat.example.com"
    status, headers, _ = flagged.request("GET", "/health", headers=origin)
    assert status == 200 and headers["access-control-allow-origin"] == "https://chat.example.com"
    assert flagged.request("GET", "/health", headers={"origin": "https://evil.org"})[0] == 403
    assert flagged.request("GET", "/health", headers={"host": "models.example.com"})[0] == 200


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--limit-mm-per-prompt", "{"], "JSON"),
        (["--limit-mm-per-prompt", '{"audio": 1}'], "audio"),
        (["--allowed-local-media-path", "/nowhere/at/all"], "folder"),
        (["--allowed-media-domains", "ftp://x"], "domain"),
        (["--allowed-media-networks", "ten"], "network"),
        (["--max-request-size", "much"], "size"),
        (["--port", "99999"], "65535"),
        (["--gpus", "3"], "GPU"),
        (["model-one", "--api-key", "a", "b"], "b"),  # never a second key, nor another model
    ],
)
def test_wrong_flags_are_told_before_anything_is_loaded(flags: list[str], said: str, capsys) -> None:
    from cpmv.cli.main import main

    assert main(["serve", *flags]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and printed.out == ""
