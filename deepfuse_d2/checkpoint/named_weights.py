"""Pretrained networks by the names of torchvision and timm, wherever a file of weights goes.

    MODEL.WEIGHTS: torchvision://resnet18                    # its default weights
    MODEL.WEIGHTS: torchvision://resnet50.IMAGENET1K_V1
    MODEL.WEIGHTS: timm://resnet18.a1_in1k

What was fetched once lies in the cache of torch.hub (TORCH_HOME) or of huggingface_hub (HF_HOME),
and is taken from there without a network.
"""

import logging
import os
import re
from pathlib import Path
from urllib.parse import urlparse

from ..errors import WeightsError

__all__ = ["fetch_named", "is_named"]

_NAME = re.compile(r"(torchvision|timm)://([\w.-]+)")
# torch.hub's names of files hold the beginning of their hash.
_HASH = re.compile(r"-([a-f0-9]{8,})\.")


def is_named(name: str) -> bool:
    return str(name).startswith(("torchvision://", "timm://"))


def fetch_named(name: str) -> Path:
    """Return the file of ``torchvision://<model>[.<weights>]`` or ``timm://<model>[.<tag>]``.

    Raises: WeightsError: the library does not know that name, or the file cannot be had here.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise WeightsError(
            f"{name} names no weights; give torchvision://resnet18, timm://resnet18.a1_in1k or the "
            "like."
        )
    fetch = _from_torchvision if found[1] == "torchvision" else _from_timm
    try:
        return fetch(found[2])
    except WeightsError:
        raise
    except Exception as error:  # of urllib, requests, httpx, the hub or the disk
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{name} cannot be fetched ({told}).") from error


def _from_torchvision(name: str) -> Path:
    import torch
    from torchvision.models import get_model_weights, list_models

    model, _, version = name.partition(".")
    if model not in list_models():
        raise WeightsError(f'torchvision has no model "{model}"; it has {list_models()[:8]}, ...')
    known = get_model_weights(model)
    versions = {one.name: one for one in known}
    if version and version not in versions:
        raise WeightsError(f'torchvision has no weights "{version}" of {model}, but {[*versions]}.')
    weights = versions[version] if version else known.DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(weights.url).path))
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = _HASH.search(file.name)
        torch.hub.download_url_to_file(
            weights.url, str(file), hash_prefix[1] if hash_prefix else None, progress=False
        )
    return file


def _from_timm(name: str) -> Path:
    try:
        import timm
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsError(
            f"timm://{name} needs the package timm: pip install 'deepfuse-d2[timm]'."
        ) from error
    config = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f'timm has no weights "{name}"; timm.list_models("*resnet*", pretrained=True) lists '
            "those it has."
        )
    told = logging.getLogger("huggingface_hub")
    level = told.level
    told.setLevel(logging.ERROR)  # each of its attempts would be a warning
    try:
        return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
    finally:
        told.setLevel(level)
