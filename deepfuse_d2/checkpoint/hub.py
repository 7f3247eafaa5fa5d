"""Model folders on a hub that speaks as huggingface.co does (the extra "hub").

``HF_ENDPOINT`` names another server, ``HF_TOKEN`` who one is, ``HF_HOME`` where copies are kept and
``HF_HUB_OFFLINE=1`` forbids the network: huggingface_hub reads them.
"""

import os
import re
from pathlib import Path
from types import ModuleType

from ..errors import UserError, WeightsError

__all__ = ["fetch", "push"]

_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
# Nothing else of a repository is looked at; none of these is executed.
_PATTERNS = ["*.json", "*.yaml", "*.safetensors", "*.md", "*.png", "*.xml", "int8-*.bin"]
# Packages of the engine "aot" are code, and of one machine: they neither come nor go.
_NEVER = ["aot/*"]


def fetch(name: str) -> Path:
    """Return the copy of ``hf://owner/name[@revision]``; what is here already is not fetched again.

    Raises: WeightsError: there is no such model, or no way to it.
    """
    repository, revision = _parse(name)
    hub = _huggingface_hub()
    try:
        folder = hub.snapshot_download(
            repository, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_NEVER,
            endpoint=_endpoint(),
        )  # fmt: skip
    except Exception as error:  # of requests, httpx, the hub or the disk
        raise WeightsError(
            f"{name} cannot be fetched: {_short(error)} Look at the name, the revision and the "
            "connection; HF_TOKEN gives access to models that are not public."
        ) from error
    return Path(folder)


def push(folder: Path, name: str, *, private: bool = False, message: str = "") -> str:
    """Upload a model folder as ``hf://owner/name[@branch]``; return the address of the change.

    Raises: UserError: the hub does not take it.
    """
    repository, branch = _parse(name)
    hub = _huggingface_hub()
    api = hub.HfApi(endpoint=_endpoint())
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=branch,
                allow_patterns=_PATTERNS,
                ignore_patterns=_NEVER,
                commit_message=message or "Upload a model packed by deepfuse_d2",
            )
        )
    except Exception as error:
        raise UserError(
            f"{name} was not uploaded: {_short(error)} HF_TOKEN, or `hf auth login`, says who you "
            "are; the token must be allowed to write."
        ) from error


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise WeightsError(f"{name} is no model on a hub; expected hf://owner/name[@revision].")
    return match[1], match[2]


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            'Models on a hub need huggingface_hub: pip install "deepfuse-d2[hub]".'
        ) from error
    return huggingface_hub


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2])[:300] or type(error).__name__
    return text if text.endswith(".") else f"{text}."
