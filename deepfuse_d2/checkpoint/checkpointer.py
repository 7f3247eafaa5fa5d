"""detectron2's checkpointer, made safe: nothing is executed on load, nothing is lost on save."""

import os
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import ConfigError, DamagedWeightsError, UserError, WeightsError
from ..files import written_whole
from .expectations import found_in_model
from .loading import load_into
from .matching import match
from .model_folder import is_model_folder, open_folder
from .named_weights import fetch_named, is_named
from .reading import read_weights
from .report import check_complete
from .resuming import how_to_resume, last_checkpoint
from .writing import write_torch, write_weights

__all__ = ["DeepFuseCheckpointer"]


class DeepFuseCheckpointer(DetectionCheckpointer):
    """A :class:`DetectionCheckpointer` that

    - reads ``.pth``, ``.safetensors`` and detectron2's ``.pkl`` without executing what they hold;
    - recognises the public weights of sources.py, renames them, and refuses a model that would feed
      them images they do not expect;
    - finds places by the rule of matching.py, reports what it found, and refuses weights that fill
      only part of the bottom-up network;
    - writes to a temporary name and renames, so that a killed process leaves the last checkpoint;
      a checkpoint that is damaged anyway is named, with the one to continue from.

    Args:
        model, save_dir, save_to_disk, checkpointables: see detectron2's.
        min_match: part of the tensors of the bottom-up network, 0..1, that a file must fill; at 0
            whatever fits is loaded (DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH).
        final_safetensors: also write the weights of "<...>_final" as ``.safetensors``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        min_match: float = 0.9,
        final_safetensors: bool = False,
        **checkpointables: Any,
    ):
        if not 0 <= min_match <= 1:
            raise ConfigError(
                f"DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH = {min_match} must be in [0, 1]."
            )
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.min_match = min_match
        self.final_safetensors = final_safetensors
        #: Names of the classes of instances that are learned, in order; stored with the weights.
        self.thing_classes: list[str] = []
        self._resuming = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` with the model, all checkpointables and `kwargs`."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        data |= kwargs
        if self.thing_classes:
            data["thing_classes"] = list(self.thing_classes)
        assert os.path.basename(name) == name, name
        target = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {target}")
        write_torch(target, data)
        self.tag_last_checkpoint(f"{name}.pth")
        if self.final_safetensors and name.endswith("_final"):
            # What this model was fed, so that another config is refused with these weights too.
            expects = found_in_model(self.model)
            path = Path(self.save_dir, f"{name}.safetensors")
            write_weights(path, data["model"], "", expects)

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load `path` into the model: a file, a URL, a name (named_weights.py) or a model folder.

        "" loads nothing.

        Returns:
            what else the file holds, e.g. the iteration.
        """
        if path and is_model_folder(path):
            folder = open_folder(path)
            try:
                return self.load(folder.weights_file, *args, **kwargs)
            except WeightsError as error:
                raise WeightsError(f"{error}\n{path} holds a {folder.describe()}.") from error
        if path and is_named(path):
            try:
                path = str(fetch_named(path))
            except WeightsError as error:
                raise WeightsError(
                    f"MODEL.WEIGHTS: {error} Look at the connection; or fetch the file by other "
                    'means and give its name, or "" to start from random weights.'
                ) from error
        if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
            raise WeightsError(
                f"The weights file {path} does not exist (folder: {os.getcwd()}). Give an existing "
                "file with MODEL.WEIGHTS, or an empty string to start from random weights."
            )
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:  # HTTPError and URLError are some
            if "://" not in path or isinstance(error, UserError):
                raise
            raise WeightsError(
                f"MODEL.WEIGHTS {path} cannot be fetched: {error}. Look at the address and the "
                "connection, or fetch the file by other means and give its name."
            ) from error
        finally:
            self._parsed_url_during_load = None  # detectron2 leaves it after an error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With `resume`, continue from the last checkpoint if there is one; else load `path`.

        Raises: WeightsError: the last checkpoint is damaged, missing or of another model; the
            message says how to continue.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        last = self.get_checkpoint_file()
        self._resuming = True
        try:
            return self.load(last)
        except DamagedWeightsError as error:
            raise DamagedWeightsError(f"{error}\n{how_to_resume(self.save_dir, last)}") from error
        finally:
            self._resuming = False

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint that ``last_checkpoint`` names; never outside the folder."""
        return last_checkpoint(self.save_dir)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that ``--resume`` takes, never leaving a half-written tag."""
        with written_whole(os.path.join(self.save_dir, "last_checkpoint")) as temporary:
            temporary.write_text(last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        query = self._parsed_url_during_load.query  # type: ignore[attr-defined]  # set by load
        asked = f"{filename}?{query}" if query.startswith("entry=") else filename
        # detectron2's heuristics of matching are a rule here
        if asked == filename and query not in ("", "matching_heuristics=True"):
            raise WeightsError(
                f"{filename}?{query}: weights are given as FILE, URL or FILE?entry=ENTRY."
            )
        # a checkpoint of our own is continued with what it was written from, not with an average
        weights = read_weights(f"{filename}?entry=model" if self._resuming else asked)
        return {**weights.rest, "model": (weights, filename)}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        weights, path = checkpoint.pop("model")
        if self._resuming:
            check_complete(match(weights.state, self.model.state_dict()), path)
        load_into(self.model, weights, path, min_match=self.min_match)
