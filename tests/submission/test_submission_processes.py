"""Two processes write one submission."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch import distributed, multiprocessing

from deepfuse_d2.submission import SubmissionWriter


def _write(rank, rendezvous, folder, perfect):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    writer = SubmissionWriter("my_test", folder)
    writer.reset()
    records = DatasetCatalog.get("my_test")
    # the first image is shown to both, as padding samplers do
    writer.process(records[: 1 + rank], [perfect] * (1 + rank))
    assert writer.evaluate() == {}
    comm.synchronize()
    distributed.destroy_process_group()


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork to share the catalog"
)
def test_two_processes_write_one_submission(town, perfect, tmp_path):
    arguments = (tmp_path / "rendezvous", tmp_path / "out", perfect)
    multiprocessing.start_processes(_write, arguments, nprocs=2, start_method="fork")
    results = tmp_path / "out" / "results"
    texts = [path.read_text().splitlines() for path in sorted(results.glob("*.txt"))]
    assert [len(lines) for lines in texts] == [3, 3]
    assert (tmp_path / "out" / "results.zip").is_file()
    assert not (tmp_path / "out.unfinished").exists()
