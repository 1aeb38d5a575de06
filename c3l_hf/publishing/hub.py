"""A finished run's dataset and generator, pushed to the Hub and checked there.

The token comes from the environment (HF_TOKEN) or the saved login (`hf auth login`).
"""

import contextlib
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from c3l_hf.common.errors import said_by
from c3l_hf.common.names import nearest_path
from c3l_hf.publishing.cards import RunFacts
from c3l_hf.publishing.export import card_and_manifest
from c3l_hf.publishing.image_checks import first_with_metadata
from c3l_hf.publishing.manifest import CARD_SCHEMA, MANIFEST, FolderError, Manifest
from c3l_hf.publishing.repository import BARE, HubError, HubUnreachable, Pushed, Repository, patiently
from c3l_hf.publishing.verify import Check, compare_facts, verify_folder

__all__ = [
    "HubError",
    "HubUnreachable",
    "LicenceError",
    "Publication",
    "Pushed",
    "check_access",
    "check_licences",
    "download",
    "push",
    "verify",
]


# As examples have it: "...", "LICENCE", "<license>".
_PLACEHOLDER = re.compile(r"\W+|\W*(?:your[ _-])?licen[cs]e\W*", re.IGNORECASE)


class LicenceError(HubError):
    """Licences that are not stated.

    Attributes:
        missing: Which, by the names of the options.
    """

    def __init__(self, message: str, missing: tuple[str, ...]):
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class Publication:
    """Where and how a run's results are published.

    Attributes:
        namespace: User or organisation; by default the token's user.
        dataset_name: Name of the dataset's repository.
        generator_name: Name of the generator's repository.
        public: Make new repositories public; else they are private, and nothing is pushed to one that is public.
        license: Licence of what is published (an identifier of the Hub), where the run did not state it.
        images_license: Licence of the images, likewise.
        images_source: Where the images come from, likewise.
        overwrite: Replace files of the same name in a repository that holds something else, or whose files were changed
            after the last push. Other files stay in any case.
        keep_metadata: Publish pictures whose files say where, when and with what they were taken.
    """

    namespace: str | None = None
    dataset_name: str = "c3l-pairs"
    generator_name: str = "c3l-generator"
    public: bool = False
    license: str | None = None
    images_license: str | None = None
    images_source: str | None = None
    overwrite: bool = False
    keep_metadata: bool = False


def push(folder: str | Path, options: Publication, *, api: HfApi | None = None) -> list[Pushed]:
    """Push a finished run's dataset and generator, each in one commit.

    Everything is checked before anything is uploaded. A push that ended half-way leaves the revision that was there as
    it was, and is continued by the next one: what has been uploaded is not uploaded again. Pushed twice, the same
    content changes nothing.

    Args:
        folder: The run's folder, with `dataset` and `generator`.
        options: Where and how.
        api: The Hub and who asks it; by default from the environment and the saved login.

    Raises:
        HubError: If the run is not finished or its files are not as they were written, licences are not stated, the
            token is missing or has no permission, a repository holds something else, or somebody else pushed meanwhile.
    """
    folder, api = Path(folder), api or HfApi()
    if not folder.is_dir():
        raise HubError(f"{folder}: there is no such folder{nearest_path(folder)}: nothing to push")
    try:
        manifests = {part: Manifest.read(folder / part) for part in ("dataset", "generator")}
        for part, manifest in manifests.items():
            if manifest.card_schema != CARD_SCHEMA:
                raise ValueError(f"the card of the {part} has schema {manifest.card_schema}, not {CARD_SCHEMA}")
        facts = RunFacts(**manifests["dataset"].facts)
    except FolderError as error:
        raise HubError(f"{error}: nothing to push") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise HubError(f"{folder}: the manifest is of another version of c3l_hf ({error}): nothing to push") from None
    if not (check := compare_facts(manifests["dataset"], manifests["generator"])).ok:
        raise HubError(f"{folder}: {check.found}: nothing to push")
    facts = _stated(facts, options)
    repositories = check_access(options, api=api)
    names = {repository.kind: repository.id for repository in repositories}
    facts = replace(facts, dataset_repo=names["dataset"], generator_repo=names["generator"])
    for kind in manifests:
        for check in verify_folder(folder / kind):
            if not check.ok:
                raise HubError(f"{folder / kind}: {check.name}: {check.found}")
    # A run that says what became of them has removed them, or was told not to.
    if not options.keep_metadata and "keep_metadata" not in (facts.options or {}):
        if where := first_with_metadata(folder / "dataset", manifests["dataset"]):
            raise HubError(
                f"{folder / 'dataset'}: {where}: the picture may say where, when and with what it was taken, as older "
                "versions wrote it; write the dataset again (restart_from write), or use keep_metadata"
            )
    contents: dict[str, dict[str, Path | bytes]] = {}
    for kind, manifest in manifests.items():
        contents[kind] = {path: folder / kind / path for path in manifest.files}
        contents[kind] |= card_and_manifest(manifest.kind, facts, manifest.files, manifest.configs)
    # Both before the first push: a new dataset beside the generator of another run would be taken for its.
    for repository in repositories:
        repository.check(contents[repository.kind])
    return [repository.push(contents[repository.kind]) for repository in repositories]


def check_access(options: Publication, *, api: HfApi | None = None) -> list[Repository]:
    """Whether a push could begin: token, permission, names, and what the repositories hold.

    Returns:
        The repositories of dataset and generator.

    Raises:
        HubError: If not.
    """
    api = api or HfApi()
    user = patiently(options.namespace or "the Hub", api.whoami)
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError("the token may only read: make one with write permission in the settings of your account")
    allowed = [user["name"], *(organisation["name"] for organisation in user.get("orgs", ()))]
    namespace = options.namespace or user["name"]
    if namespace not in allowed:
        raise HubError(f"the token has no permission to write to {namespace}; it may write to {', '.join(allowed)}")
    how = (api, options.public, options.overwrite)
    repositories = [
        Repository("dataset", f"{namespace}/{options.dataset_name}", *how),
        Repository("generator", f"{namespace}/{options.generator_name}", *how),
    ]
    for repository in repositories:
        try:
            validate_repo_id(repository.id)
        except HFValidationError as error:
            raise HubError(f"{repository.id} cannot be the name of a repository: {said_by(error)}") from None
    for repository in repositories:
        repository.check()
    return repositories


def check_licences(license: str | None, images_license: str | None) -> None:
    """That both licences are stated; what an example has in their place is none.

    Args:
        license: Licence of what is published.
        images_license: Licence of its images.

    Raises:
        LicenceError: If not, in one line.
    """
    given = {"license": license, "images_license": images_license}
    missing = {name: value for name, value in given.items() if not value or _PLACEHOLDER.fullmatch(value)}
    if missing:
        found = [name if not value else f"{name} ({value})" for name, value in missing.items()]
        raise LicenceError(
            f"{' and '.join(found)} {'are' if len(missing) > 1 else 'is'} not stated: license is the one under which "
            "you publish (an identifier of the Hub, as apache-2.0), images_license that of the pictures",
            tuple(missing),
        )


def verify(
    name: str,
    *,
    revision: str | None = None,
    repo_type: str | None = None,
    rescore: int = 0,
    model: str | None = None,
    model_revision: str | None = None,
    api: HfApi | None = None,
) -> bool:
    """Check a dataset or generator of this project and print every check with its result.

    Args:
        name: A folder (of a dataset, a generator, or a run, which has both), or a repository on the Hub, which is
            downloaded.
        revision: Branch, tag or commit.
        repo_type: "dataset" or "model", if there are both of that name.
        rescore: Score so many rows of a dataset again.
        model: The model for that, see `verify.verify_folder`.
        model_revision: Its revision.
        api: As for `push`.

    Returns:
        Whether everything is as it should be.

    Raises:
        HubError: If there is nothing of this project there, or it cannot be downloaded.
    """
    folder = Path(name)
    parts: list[tuple[Path, set[str], str]] = [(folder, set(), name)]
    if not folder.is_dir():
        if folder.exists() or name.count("/") > 1 or name.startswith((".", "/")):
            raise HubError(f"there is no folder {name}, and no repository on the Hub can have that name")
        api = api or HfApi()
        parts = [download(name, revision, repo_type, api)]
    elif not (folder / MANIFEST).exists() and (folder / "dataset" / MANIFEST).exists():
        parts = [(folder / part, set(), str(folder / part)) for part in ("dataset", "generator")]
    results = []
    for folder, extra, title in parts:
        checks = verify_folder(folder, extra=extra, rescore=rescore, model=model, model_revision=model_revision)
        results.append(_print_checks(title, checks))
    if len(parts) == 2 and all((folder / MANIFEST).is_file() for folder, *_ in parts):
        with contextlib.suppress(FolderError):  # which has been printed
            both = [Manifest.read(folder) for folder, *_ in parts]
            results.append(_print_checks(name, [compare_facts(*both)]))
    return all(results)


def _print_checks(title: str, checks: Iterable[Check]) -> bool:
    """Prints checks as they are made; returns whether all are well."""
    failed = []
    print(title)
    for check in checks:
        # Texts and names of others must not reach the terminal as commands to it.
        found = "".join(character if character.isprintable() else "?" for character in check.found)
        print(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name:<10} {found}", flush=True)
        failed += [check.name] * (not check.ok)
    print(f"{title}: {'failed: ' + ', '.join(failed) if failed else 'all is as it should be'}")
    return not failed


def _stated(facts: RunFacts, options: Publication) -> RunFacts:
    """The facts with what the push states of licences and source; both licences are needed."""
    stated = {name: getattr(options, name) for name in ("license", "images_license", "images_source")}
    facts = replace(facts, **{name: value for name, value in stated.items() if value})
    check_licences(facts.license, facts.images_license)
    return facts


def download(name: str, revision: str | None, repo_type: str | None, api: HfApi) -> tuple[Path, set[str], str]:
    """A repository's files in the cache: (folder, all files of the repository, its name for people).

    Raises:
        HubUnreachable: If the Hub cannot be asked.
        HubError: If there is nothing of this project there, or it cannot be downloaded.
    """
    try:
        return patiently(name, lambda: _download(name, revision, repo_type, api))
    except HubUnreachable as error:
        # A folder's name that is not quite right looks like a repository's.
        raise HubUnreachable(f"{error}, and there is no folder of that name here{nearest_path(name)}") from error


def _download(name: str, revision: str | None, repo_type: str | None, api: HfApi) -> tuple[Path, set[str], str]:
    found = {}
    for type in [repo_type] if repo_type else ["dataset", "model"]:
        with contextlib.suppress(RepositoryNotFoundError):
            found[type] = api.repo_info(name, repo_type=type, revision=revision)
    if not found:
        raise HubError(f"{name} is neither a folder nor a repository that this token (if any) may read")
    if len(found) > 1:
        raise HubError(f"{name} is a dataset and a model: say which, as repo_type")
    ((type, info),) = found.items()
    try:
        path = Path(api.hf_hub_download(name, MANIFEST, repo_type=type, revision=info.sha))
        manifest = Manifest.from_bytes(path.read_bytes(), name)
    except RemoteEntryNotFoundError:
        raise HubError(f"{name} has no {MANIFEST}: it was not made by c3l_hf") from None
    except FolderError as error:
        raise HubError(str(error)) from None
    patterns = [MANIFEST, *map(glob.escape, manifest.files)]
    folder = api.snapshot_download(name, repo_type=type, revision=info.sha, allow_patterns=patterns)
    files = {sibling.rfilename for sibling in info.siblings or ()} - BARE
    return Path(folder), files, f"{name} ({type}, commit {info.sha[:12]})"
