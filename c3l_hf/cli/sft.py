"""`c3l sft`: a student, fine-tuned on a dataset."""

from c3l_hf.cli.command import CallOptions, Command, set_up_process
from c3l_hf.cli.training_help import SHOWN_STUDENT
from c3l_hf.common.nodes import check_places
from c3l_hf.finetuning.run import SFTOptions, run_sft
from c3l_hf.finetuning.student import StudentConfig
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.options import ModelOptions

__all__ = ["COMMAND"]


def sft(model: ModelOptions, options: SFTOptions, training: StudentConfig, _: CallOptions) -> None:
    """Fine-tunes a student; see `COMMAND`."""
    set_up_process()
    check_places({"dataset": options.dataset, "model": model.model, "image_folder": options.image_folder})
    run_sft(options, Source.of(model, trust_remote_code=training.trust_remote_code), training)


COMMAND = Command(
    description="Fine-tunes a vision-language student on a curated dataset with TRL's SFTTrainer, in full or by LoRA "
    "adapters; the loss is on the answers only. Nothing is truncated: rows that are too long or cannot be read are "
    "left out before the first step, counted and named. The same command again goes on after an interruption. The "
    "result is <output_dir>/student (from_pretrained).",
    examples=(
        "c3l sft --config sft_llava15_7b --dataset user/c3l-5k --output_dir runs/sft",
        "accelerate launch -m c3l_hf sft --config sft_llava15_7b …                            (several processes)",
    ),
    groups=(ModelOptions, SFTOptions, StudentConfig, CallOptions),
    call=sft,
    shown={StudentConfig: SHOWN_STUDENT},
    resumes=True,
)
