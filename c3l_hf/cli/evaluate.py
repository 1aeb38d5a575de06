"""`c3l evaluate`: a model on the benchmarks."""

from c3l_hf.cli.command import CallOptions, Command, set_up_process
from c3l_hf.common.errors import RunError
from c3l_hf.evaluation.run import EvaluateOptions, run_evaluation
from c3l_hf.models.loading import Source
from c3l_hf.pipeline.options import UsedModelOptions

__all__ = ["COMMAND"]


def evaluate(model: UsedModelOptions, options: EvaluateOptions, _: CallOptions) -> None:
    """Evaluates a model; see `COMMAND`."""
    set_up_process()
    results = run_evaluation(options, Source.of(model, trust_remote_code=model.trust_remote_code))
    if not any(result["asked"] for result in results.values()):
        raise RunError(f"no question could be asked; see not_asked in {options.output_dir}/<benchmark>/results.json")


COMMAND = Command(
    description="Puts POPE, SEED-Bench, MMBench and LLaVA-Bench to a model. <output_dir>/<benchmark>/ gets "
    "predictions.parquet (every answer) and results.json (every figure with its standard error and 95 % interval). The "
    "judge of LLaVA-Bench needs --judge_base_url and --judge_model; its key comes from JUDGE_API_KEY. The same command "
    "again goes on after an interruption; c3l evaluate compare A B tests two of them against each other.",
    examples=(
        "c3l evaluate --model llava-hf/llava-1.5-7b-hf --benchmarks pope mmbench --output_dir runs/evaluation",
        "c3l evaluate --model scenes --world scenes --bare_questions --output_dir runs/scenes",
    ),
    groups=(UsedModelOptions, EvaluateOptions, CallOptions),
    call=evaluate,
    resumes=True,
)
