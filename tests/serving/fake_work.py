"""Stands in for the process that predicts: it says what it was given, is slow, dies or is stuck."""

import os
import signal
import time


def work(models, number, threads, batch, pipe):
    if "never ready" in models:
        os.kill(os.getpid(), signal.SIGKILL)
    if "unknown" in models:
        pipe.send(("error", "the weights are damaged"))
        return
    pipe.send(("ready", ""))
    while True:
        try:
            tasks = pipe.recv()
        except EOFError:
            return
        answers = []
        for model, content, form, _ in tasks:
            if content == b"deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            if content == b"stuck":
                time.sleep(600)
            time.sleep(0.2 if content == b"slow" else 0)
            answers.append((form, b"%s by %s of %d" % (content, model.encode(), len(tasks))))
        pipe.send(answers)
