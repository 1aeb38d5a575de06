"""Who writes the replies of a generation stage: a model in this process, or servers, which a command may start."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.common.errors import RunError
from c3l_hf.common.processes import process_state
from c3l_hf.common.records import read_record, write_record
from c3l_hf.common.tables import format_table
from c3l_hf.generation.pairs import PairGenerationConfig
from c3l_hf.generation.requests import Reply, Request, Writer
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.generation.serving import serve
from c3l_hf.generation.usable import watched
from c3l_hf.models.loading import Source, load_processor, model_folder
from c3l_hf.pipeline.options import BackendOptions
from c3l_hf.prompts.template_files import check_control_tokens

__all__ = ["check_backend", "check_written_tokens", "open_writer"]


def check_backend(options: BackendOptions) -> None:
    """Raises a RunError if the options of a backend do not go together."""
    given = [name for name in vars(options) if name != "backend" and getattr(options, name) != _DEFAULTS[name]]
    if options.backend == "process":
        if given:
            raise RunError(f"{given[0]} is of a server; set backend: server with it")
        return
    if options.base_url is None and options.serve is None:
        raise RunError("backend server needs base_url, the address of a server, or serve, the command that starts one")
    if options.serve is not None:
        if "{model}" not in options.serve or "{port}" not in options.serve:
            raise RunError(
                "serve must have {model} and {port}, where the generator's folder and the port go, as in "
                f"'vllm serve {{model}} --port {{port}}'; it is {options.serve!r}"
            )
        if options.base_url is None and options.served_model is not None:
            raise RunError("served_model is of a server that runs; what serve starts has the generator's own name")
    server_options(options, options.base_url or ["http://localhost:1/v1"])


def server_options(options: BackendOptions, base_urls: list[str]) -> ServerOptions:
    """The same for `ServerWriter`.

    Raises:
        RunError: If one is impossible.
    """
    try:
        extra = json.loads(options.server_extra_body or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise RunError(f"server_extra_body is {options.server_extra_body!r}; it must be an object in JSON")
    try:
        return ServerOptions(
            base_urls,
            options.served_model,
            concurrency=options.server_concurrency,
            timeout=options.server_timeout,
            retries=options.server_retries,
            extra_body=extra,
            prompt_price=options.prompt_price,
            completion_price=options.completion_price,
        )
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        ours = {"base_urls": "base_url", **{key: f"server_{key}" for key in _OF_SERVERS}}
        raise RunError(f"{ours.get(name, name)} {rest}") from None


def check_written_tokens(options: BackendOptions, config: PairGenerationConfig, generator: Source | None) -> None:
    """That no template writes a control token out: of the generator, or of common models where only a server has it.

    Raises:
        RunError: The message names the template and its place.
    """
    processor = None if generator is None or options.backend == "server" else load_processor(generator)
    check_control_tokens(config.template_set.templates, processor)


@contextlib.contextmanager
def open_writer(
    options: BackendOptions,
    config: PairGenerationConfig,
    generator: Source | None,
    load: Callable[[], tuple[PreTrainedModel, ProcessorMixin]],
    folder: Path,
    trained: bool = False,
) -> Iterator[Writer]:
    """What replies to the requests of a stage. Every process calls this, and gets one of its own.

    The servers at `base_url` have a generator as it was. One that was trained is served by the command `serve`, or
    writes in this process if there is none.

    Args:
        options: The backend.
        config: How replies are drawn.
        generator: Where the generator is, for a command that serves it; None if there is none but that of `base_url`.
        load: The generator in this process; called when the first request comes.
        folder: Where replies of servers are kept until the stage is complete; see `ServerWriter`.
        trained: Whether it is one that the run has trained.

    Raises:
        RunError: If no server can be asked.
    """
    urls = list(options.base_url or ()) if not trained else []
    if options.backend == "process" or (not urls and options.serve is None):

        def write(requests: Iterable[Request]) -> Iterator[tuple[Request, list[Reply]]]:
            return config.writer(*load())(requests)

        yield watched(write)
        return
    with contextlib.ExitStack() as stack:
        if not urls:
            assert generator is not None and options.serve is not None
            if generator.base_model is not None:
                raise RunError("serve needs a whole model, and the generator is adapters: merge them first")
            log = folder / "server.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            served = stack.enter_context(
                serve(options.serve, model_folder(generator.model_id), log, deadline=options.serve_timeout)
            )
            urls, options = [served.base_url], dataclasses.replace(options, served_model=served.model)
        state = process_state()
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"replies-{state.process_index}.jsonl"
        # Also those of an earlier run with more processes.
        others = sorted(set(folder.glob("replies-*.jsonl")) - {own})
        writer = stack.enter_context(
            ServerWriter(
                server_options(options, urls),
                own,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=config.seed,
                others=others,
            )
        )
        if options.served_model is None:
            _check_same_model(folder / "served_model.json", writer.served_model)
        yield watched(writer)
        parts = [writer.summary()]
        if state.num_processes > 1:
            parts = gather_object(parts)
        state.print(format_table(_sums(parts)))


def _check_same_model(file: Path, served: str | None) -> None:
    """That a server whose model nobody has named has the one with which a stage was begun.

    Raises:
        RunError: If it has another: its replies would stand beside those of the first.
    """
    state = process_state()
    if state.is_main_process and read_record(file) is None:
        write_record(file, {"model": served})
    state.wait_for_everyone()
    if (before := (read_record(file) or {}).get("model")) != served:
        raise RunError(
            f"replies so far are of the model {before}, and the server has {served} now; serve {before} again, or give "
            f"served_model {served}, which begins anew"
        )


def _sums(parts: Iterable[Iterable[tuple[str, int | float | str]]]) -> list[tuple[str, int | float | str]]:
    """The summaries of all processes as one; of words, as why a server was left out, the first."""
    sums: dict[str, Any] = {}
    for name, value in (row for part in parts for row in part):
        sums[name] = value if isinstance(value, str) else sums.get(name, 0) + value
    return list(sums.items())


# Options of `ServerOptions` that are called otherwise here.
_OF_SERVERS = ("concurrency", "timeout", "retries", "extra_body")
_DEFAULTS: dict[str, Any] = vars(BackendOptions())
