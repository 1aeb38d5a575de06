"""What a plan tells, what it is bound by, what will not fit; that it writes nothing; the docs' tables are its."""

import functools
from dataclasses import replace

import plan_tables
import pytest
from datasets import Dataset
from tiny_models import tiny_gemma3, tiny_llava
from transformers import LlavaConfig

from c3l_hf.cli import main
from c3l_hf.cli.run import COMMAND
from c3l_hf.cli.settings import read_settings
from c3l_hf.common.errors import RunError
from c3l_hf.common.tables import fill_marks
from c3l_hf.data.sources import Images
from c3l_hf.models.loading import Source
from c3l_hf.pipeline import plan
from c3l_hf.pipeline.accelerators import ACCELERATORS, Hardware, read_hardware
from c3l_hf.pipeline.calibration import Calibration
from c3l_hf.pipeline.inputs import Inputs
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.plan import make_plan
from c3l_hf.pipeline.plan_model import read_model
from c3l_hf.pipeline.plan_text import format_plan
from c3l_hf.pipeline.settings import Settings
from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.world import load_scenes

TRIED = Calibration(
    images=4,
    fixed={"generate": 10.0, "score": 5.0, "train": 20.0},
    per_row={"generate": 2.0, "score": 0.1, "train": 3.0},
    pairs_per_image=4.0,
    labels_per_image=1.0,
    bytes_of_pair=1000.0,
    bytes_of_image=50_000.0,
    prompt_tokens=94.0,
    reply_tokens=20.0,
    answer_tokens=7.0,
)


read_once = functools.cache(read_model)


@pytest.fixture(autouse=True)
def models_read_once(monkeypatch):
    monkeypatch.setattr(plan, "read_model", read_once)


@pytest.fixture(scope="module")
def llava7b(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llava-7b"
    LlavaConfig().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Without weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, processor = tiny_llava()
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def planned(*words):
    return make_plan(Settings(*read_settings(COMMAND, words, {}, list).groups))


def of_tiny(tiny, *words):
    return planned("--model", tiny, "--num_images", "1000", "--dtype", "auto", *words)


@pytest.fixture
def here(monkeypatch):
    """What is on this machine is not looked at, and a try takes no time."""
    rows = Dataset.from_list([{"images": row["images"], "image_id": row["image_id"]} for row in load_scenes(20)])
    source = Source(str(GENERATOR))
    inputs = Inputs(Images(rows.cast(load_scenes(1).select_columns(["images", "image_id"]).features), "s", None), None,
                    source, {}, source, None)  # fmt: skip
    monkeypatch.setattr(plan, "open_inputs", lambda settings: inputs)
    calls = []
    monkeypatch.setattr(plan, "calibrate", lambda settings, inputs, images: calls.append(images) or TRIED)
    return calls


def test_the_docs_have_the_tables_that_the_command_makes():
    page = plan_tables.PAGE.read_text("utf-8")
    assert page == fill_marks(page, plan_tables.tables()), "run recipes/benchmarks/plan_tables.py"
    assert page.count("<!-- evidence: plan") == 4


def test_a_plan_from_the_command_line(llava7b, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"run --config llava15_7b --model {llava7b} --num_images 10000 --plan 8xH100 --output_dir out"
    assert main(words.split()) == 0
    told = capsys.readouterr().out
    assert told.startswith("Plan for 8 x NVIDIA H100 SXM: 10,000 images of 1024x768, 50,000 pairs a round\n")
    for words in (
        "llava-7b: 7.06B parameters, 576 tokens an image",  # and not the folder of this machine
        "\nbottleneck: train, ",
        "one NVIDIA H100 SXM has 80.0 GB",
        "assumed: 40% of 989 TFLOP/s (dense bfloat16) and 60% of 3.35 TB/s: NVIDIA H100 data sheet",
        "texts, assumed: prompt 150 tokens",
    ):
        assert words in told
    assert str(tmp_path) not in told and llava7b not in told
    assert "FIT" not in told and max(map(len, told.splitlines())) <= 135
    assert not list(tmp_path.iterdir())


def test_a_processor_counts_tokens_where_it_is_there(tiny):
    made = of_tiny(tiny, "--plan", "h100", "--plan_image_size", "640x480")
    assert (made.image.tokens, made.image.width, made.image.height) == (16, 640, 480)
    assert made.texts.source.startswith("prompts as the processor counts them") and made.texts.prompt > 20
    assert not made.remarks and made.pairs == 5000
    assert tuple(made.times) == STAGES


def test_devices_share_what_can_be_shared(llava7b):
    words = ("--model", llava7b, "--num_images", "1000000", "--max_steps", "100")
    one, eight = (planned(*words, "--plan", name) for name in ("h100", "8xh100"))
    loading = one.storage.model / 500e6
    for stage in ("generate", "rescore"):
        alone, shared = (made.times[stage].seconds for made in (one, eight))
        assert shared - loading == pytest.approx((alone - loading) / 8)
    assert one.times["train"].seconds == pytest.approx(eight.times["train"].seconds)  # a step is a step
    assert one.stages["train"].rows * 8 == eight.stages["train"].rows
    for stage in ("select", "curate", "write"):  # the main process's
        assert one.times[stage] == eight.times[stage]


@pytest.mark.parametrize(
    ("words", "stage", "bound"),
    [
        ((), "generate", "writing: Python"),
        (("--plan", "a10"), "generate", "writing: memory bandwidth"),
        (("--generation_batch_size", "4000"), "generate", "prompts: arithmetic"),
        (("--plan_image_size", "9000x6000"), "generate", "pictures: one core a device"),
        ((), "score", "with image: arithmetic"),
        ((), "train", "products: arithmetic"),
        ((), "select", "one process: pairs"),
        (("--near_duplicate_images", "similar"), "curate", "one process: alike pictures"),
        (("--near_duplicate_scope", "dataset"), "curate", "one process: alike texts"),
        ((), "write", "one process: disk"),
        (("--num_images", "10", "--plan", "64xh100"), "regenerate", "loading: disk"),
    ],
)
def test_what_a_stage_is_bound_by(llava7b, words, stage, bound):
    usual = ("--model", llava7b, "--num_images", "100000", "--plan", "h100", "--max_steps", "1000")
    assert planned(*usual, *words).times[stage].bound == bound


def test_what_will_not_fit(llava7b):
    words = ("--model", llava7b, "--num_images", "1000")
    assert planned(*words, "--plan", "h100").problems() == []
    (problem,) = planned(*words, "--plan", "h100", "--use_lora", "false").problems()
    assert problem.startswith("train needs 9") and problem.endswith("and one NVIDIA H100 SXM has 80.0 GB")
    (problem,) = planned(*words, "--plan", "a10", "--generation_batch_size", "64").problems()
    assert problem.startswith("generate needs ")
    assert planned(*words, "--plan", "a10", "--load_in_4bit", "true", "--generation_batch_size", "4").problems() == []
    many = planned("--model", llava7b, "--num_images", "100000000", "--plan", "h100")
    assert many.problems()[0].startswith("the dataset has 40,1") and "at most 10,000 in a folder" in many.problems()[0]


def test_a_plan_that_is_measured(here, tmp_path):
    words = ("--model", str(GENERATOR), "--images", "scenes", "--dtype", "float32", "--num_train_epochs", "2")
    made = planned(*words, "--num_images", "1000", "--plan", "2xhere", "--output_dir", str(tmp_path / "out"))
    assert here == [7] and made.tried is TRIED  # a batch of replies
    assert made.images == 1000 and made.pairs == 4000 and (made.image.width, made.image.height) == (64, 64)
    assert (made.texts.prompt, made.texts.reply, made.texts.answer) == (94 - 64, 20, 7)
    assert made.times["generate"].seconds == 10 + 2 * 1000 / 2
    assert made.times["score"].seconds == 5 + 0.1 * 4000 / 2
    assert made.times["train"].seconds == 20 + 3 * made.stages["train"].steps
    assert made.storage.pictures == 1000 * 50_000
    told = format_plan(made)
    assert told.startswith("Plan for 2 x this machine: 1,000 images of 64x64") and "assumed" not in told
    assert "measured with 4 images on this machine: generate reached " in told and "GFLOP/s" in told
    assert "note: 4 images fill no batch of 32 replies: writing may take less than told" in told
    assert not list(tmp_path.iterdir())


def test_a_measured_plan_says_what_of_the_data_sheet_was_reached(here, monkeypatch):
    monkeypatch.setattr(Hardware, "known_as", lambda self, name: replace(self, accelerator=ACCELERATORS["l4"]))
    made = planned("--model", str(GENERATOR), "--images", "scenes", "--plan", "here")
    assert made.images == 20
    assert "of the data sheet" in format_plan(made) and "of its bandwidth" in format_plan(made)


def test_what_was_not_tried_has_no_time(here, monkeypatch):
    part = Calibration(2, per_row={"generate": 1.0}, problem="score could not be tried: no room")
    monkeypatch.setattr(plan, "calibrate", lambda *_: part)
    told = format_plan(planned("--model", str(GENERATOR), "--images", "scenes", "--plan", "here"))
    assert ", without score, train, rescore" in told and "score could not be tried: no room" in told


def test_what_a_server_writes_has_no_time(tiny):
    made = of_tiny(tiny, "--plan", "h100", "--backend", "server", "--base_url", "http://h/v1")
    assert "generate" not in made.times and "score" in made.times
    assert ", without generate, regenerate" in format_plan(made)


def test_another_model_that_scores(tiny, tmp_path, llava7b):
    one, other = (of_tiny(tiny, "--plan", "h100", *words) for words in ((), ("--scorer_model", llava7b)))
    assert other.stages["score"].flops > 1e4 * one.stages["score"].flops
    assert other.stages["generate"] == one.stages["generate"]
    model, _ = tiny_gemma3()
    model.config.save_pretrained(tmp_path)
    alone = planned("--model", str(tmp_path), "--num_images", "10", "--plan", "h100")
    assert any("lets no answers share an image" in remark for remark in alone.remarks)


def test_what_is_not_counted_is_said(tiny):
    assert not of_tiny(tiny, "--plan", "h100").remarks
    words = ("--retries", "2", "--clusters", "10", "--embeddings", "model", "--device_map", "auto")
    made = of_tiny(tiny, "--plan", "h100", *words)
    assert len(made.remarks) == 3 and all(f"\nnote: {remark}" in format_plan(made) for remark in made.remarks)


def test_stages_after_the_last_wanted_one_are_left_out(tiny):
    made = of_tiny(tiny, "--plan", "h100", "--stages", "generate", "score")
    assert set(made.times) == set(made.stages) == {"generate", "score"}
    assert made.bottleneck[0] in made.times


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--plan", "h1000"), "plan is 'h1000'; it must be a GPU, as 8xh100: a10, .*did you mean 'h100'"),
        (("--plan", "0xh100"), "plan is '0xh100'; it must be"),
        (("--plan", "8 x"), "plan is '8 x'; it must be"),
        (("--plan", "h100", "--num_images", "10", "--calibrate", "4"), "calibrate is 4, but a GPU's plan measures"),
        (("--plan", "h100"), "num_images is missing: a plan opens no images"),
        (("--plan", "h100", "--num_images", "5", "--dtype", "float32"), "dtype is float32, but .* add dtype bfloat16"),
        (("--plan", "here", "--plan_image_size", "64x64"), "plan_image_size is given, but with plan here"),
        (("--plan", "h100", "--num_images", "5", "--plan_image_size", "big"), "plan_image_size is 'big'; it must be"),
        (("--plan", "h100", "--num_images", "5", "--model", "nowhere/"), "model nowhere/ cannot be planned: "),
    ],
)
def test_what_cannot_be_planned(tiny, words, says):
    with pytest.raises(RunError, match=says):
        planned("--model", tiny, *words)


def test_here_without_a_try(here):
    with pytest.raises(RunError, match="plan is here, but nothing can be measured: calibrate is 0"):
        planned("--model", str(GENERATOR), "--images", "scenes", "--plan", "here", "--calibrate", "0")


def test_hardware():
    assert read_hardware("h100") == Hardware(ACCELERATORS["h100"], 1)
    assert read_hardware(" 16 x H100 ") == Hardware(ACCELERATORS["h100"], 16)
    assert (read_hardware("8xhere").here, read_hardware("8xhere").devices) == (True, 8)
    assert [read_hardware(f"{n}xl4").machines for n in (1, 8, 9, 64)] == [1, 1, 2, 8]
    for name in ("a100-40gb", "a100", "h100", "l40s"):
        assert read_hardware(f"2x{name}").accelerator is ACCELERATORS[name]


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H100 PCIe", None),  # slower than what is in the table
        ("Tesla T4", None),
        (None, None),
    ],
)
def test_devices_by_the_name_of_their_driver(driver, name):
    assert Hardware(None, 1, True).known_as(driver).accelerator is (None if name is None else ACCELERATORS[name])


def test_numbers_of_data_sheets():
    """Dense rates, and memory that is far faster than a disk: a slip of a unit would be seen."""
    for one in ACCELERATORS.values():
        assert 1e14 <= one.flops < 1e15 and 2e10 < one.memory < 2e11 and 2e11 < one.bandwidth < 5e12
        assert "data sheet" in one.source
