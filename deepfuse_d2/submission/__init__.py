"""Submissions: the files that the servers of Cityscapes and PASCAL VOC take, written and checked.

One module a format of files, :mod:`.writer` for what they share.
"""

from .writer import FORMATS, SubmissionWriter, build_submission_writer

__all__ = ["FORMATS", "SubmissionWriter", "build_submission_writer"]
