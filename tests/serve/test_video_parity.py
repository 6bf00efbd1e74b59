"""Packed video over HTTP is what `model.chat` makes of the same frames and ids, token for token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_media import clip
from serve_process import ROOT, Server, data_uri, serving, text_part

import cpmv
from cpmv.engine.sampling import SamplingParams
from cpmv.inputs.video import encode_video

MODEL = str(ROOT / "tests" / "golden" / "tiny_a")  # 64 tokens a group, as the released checkpoint has
QUESTION = "What happens?"


@pytest.fixture(scope="module")
def server64() -> Iterator[Server]:
    with serving("--dtype", "float32", "--served-model-name", "tiny", model=MODEL) as running:
        yield running


def test_sixty_packed_frames_cost_640_tokens_and_give_the_answer_of_chat(server64: Server) -> None:
    data = clip(200, 10)  # 20 s: 60 frames at 3 a second
    part = {"type": "video_url", "video_url": {"url": data_uri(data, "video/mp4")}}
    reply = server64.client().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [part, text_part(QUESTION)]}],
        temperature=0,
        max_tokens=24,
        logprobs=True,
        extra_body={"mm_processor_kwargs": {"fps": 3, "packing": 6}},
    )
    details = reply.usage.prompt_tokens_details
    assert details.visual_tokens == details.video_tokens == 640 and details.image_tokens == 0

    model = cpmv.load(MODEL, dtype="float32")
    frames, ids = encode_video(data, 3, 6, max_num_packing=6)
    assert len(frames) == 60 and [len(group) for group in ids] == [6] * 10
    conversation = [{"role": "user", "content": [*frames, QUESTION]}]
    options = {"use_image_id": False, "max_slice_nums": 1, "temporal_ids": ids}
    text = model.chat(msgs=conversation, do_sample=False, max_new_tokens=24, **options)
    assert reply.choices[0].message.content == text
    params = SamplingParams.reference(True, do_sample=False, max_new_tokens=24)
    output = model.generate(model.processor(conversation, **options), params)
    assert isinstance(output, cpmv.Output)
    expected = [model.tokenizer.token_bytes(token) for token in output.token_ids]
    assert [bytes(token.bytes) for token in reply.choices[0].logprobs.content] == expected
    assert len(expected) == 24 == reply.usage.completion_tokens


def test_frames_sent_as_pictures_with_their_times_are_the_same_prompt(server64: Server) -> None:
    data = clip(12, 2)
    frames, ids = encode_video(data, 2, 6, max_num_packing=6)
    import io

    pictures = []
    for frame in frames:
        out = io.BytesIO()
        frame.save(out, "PNG")
        pictures.append({"type": "image_url", "image_url": {"url": data_uri(out.getvalue(), "image/png")}})

    def tokens(parts: list, **options: object) -> list[int]:
        body = {"messages": [{"role": "user", "content": [*parts, text_part(QUESTION)]}]}
        status, found = server64.post("/tokenize", {**body, "mm_processor_kwargs": options})
        assert status == 200, found
        return found["tokens"]

    video = {"type": "video_url", "video_url": {"url": data_uri(data, "video/mp4"), "fps": 2, "packing": 6}}
    as_pictures = tokens(pictures, temporal_ids=ids, use_image_id=False, max_slice_nums=1)
    assert as_pictures == tokens([video])
