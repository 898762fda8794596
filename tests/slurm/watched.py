"""A user's model that does as ``orders.json`` says, and notes each training step of its experiment.

``{"width8-D640-s0": {"seconds": 0.5, "hang_at": 3, "fail_at": 2}}``: how long a step takes, and the
step, counted over all attempts, at which the experiment hangs or fails. Notes: ``steps/<label>``.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from torch import nn


class Net(nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width, bias), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        if self.training and sys.argv[2:] and sys.argv[2].endswith("result.json"):  # not a check
            obey(Path(sys.argv[2]).parent.name.split("-", 1)[1].rsplit("-", 1)[0])
        return self.layers(x)


def obey(label):
    # By another program: an edit of what a plug-in itself reads would give its runs other ids.
    done = subprocess.run(["cat", "orders.json"], check=True, capture_output=True)
    orders = json.loads(done.stdout).get(label, {})
    notes = Path("steps", label)
    step = notes.stat().st_size if notes.exists() else 0
    if os.environ.get("RANK", "0") == "0":
        with notes.open("a") as file:
            file.write(".")
    if step == orders.get("fail_at"):
        raise RuntimeError("as ordered")
    time.sleep(600 if step == orders.get("hang_at") else orders.get("seconds", 0))
