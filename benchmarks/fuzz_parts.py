"""Plug-ins of random sweeps, as people write them: models with their data, losses and optimisers.

Each function below draws one kind of task and returns `Parts`: texts of modules, and what must be
refused about them.
"""

from dataclasses import dataclass, field, replace

import numpy as np

IMPORTS = """\
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

"""


@dataclass(frozen=True)
class Parts:
    """One task: texts of ``model`` (a ``Net``), ``data`` (a function) and ``loss`` (None: default).

    ``outputs``: where the loss finds the predictions. ``targets``: "classes", "floats" or "none".
    ``work``: about the FLOPs of a token at width 1 and at its square. ``must_refuse``: why no plan
    and no check may accept the sweep ("": they may). ``once``: whether the data are read once.
    """

    name: str
    model: str
    data: str
    targets: str = "classes"
    outputs: str = "outputs"
    loss: str | None = None
    optimizer: str | None = None
    work: tuple[float, float] = (100, 12)
    must_refuse: str = ""
    once: bool = False
    config: dict = field(default_factory=dict)


def pick(rng: np.random.Generator, *options):
    return options[int(rng.integers(len(options)))]


# -- models and their data


def vectors(rng: np.random.Generator) -> Parts:
    """Vectors of floats in, a class or floats out: what most models are when they are tried."""
    width_in, out, rows = int(pick(rng, 4, 12)), int(pick(rng, 3, 10)), int(pick(rng, 600, 3000))
    norm = pick(rng, "nn.Identity()", "nn.BatchNorm1d(width)", "nn.LayerNorm(width)")
    drop = pick(rng, "nn.Identity()", "nn.Dropout(0.1)", "nn.GELU()")
    first = pick(rng, *[f"nn.Linear({width_in}, width)"] * 5, "nn.LazyLinear(width)")
    back, outputs = pick(
        rng,
        ("y", "outputs"),
        ("y", "outputs"),
        ("(y, x)", "outputs[0]"),
        ("{'logits': y, 'loss': None}", "outputs['logits']"),
    )
    frozen = pick(
        rng,
        "pass",
        "pass",
        "self.layers[0].requires_grad_(False)",
        "self.layers[-1].bias.requires_grad_(False)",
    )
    tied = pick(
        rng,
        "pass",
        "pass",
        "self.middle = self.layers[1]",
        "self.again = nn.Linear(width, width); self.again.weight = self.layers[1].weight",
    )
    own = pick(
        rng,
        "",
        "",
        "\n    def num_params(self):\n        return sum(p.numel() for p in self.parameters())\n",
    )
    model = f"""
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential({first}, nn.Linear(width, width), {norm}, nn.ReLU(), {drop},
                                    nn.Linear(width, {out}))
        {frozen}
        {tied}

    def forward(self, x):
        y = self.layers(x)
        return {back}
{own}"""
    floats = rng.random() < 0.4
    targets = f"torch.rand({rows}, {out})" if floats else f"torch.randint({out}, ({rows},))"
    data = f"""
def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn({rows}, {width_in}), {targets})
"""
    kind = "floats" if floats else "classes"
    work = 6.0 * (width_in + out), 6.0
    work = (work[0] / out, work[1] / out) if floats else work
    return Parts("vectors", model, data, kind, outputs, work=work)


def images(rng: np.random.Generator) -> Parts:
    """Tiny images and a convolutional network with batch norm."""
    side, rows = int(pick(rng, 8, 12)), int(pick(rng, 400, 1500))
    drop = pick(rng, "nn.Identity()", "nn.Dropout2d(0.1)")
    groups = pick(rng, 1, 1, "width")
    model = f"""
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), {drop},
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups={groups}), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(2 * width, 5)

    def forward(self, images):
        return self.head(self.body(images))
"""
    flip = "if torch.rand(()) < 0.5: image = image.flip(-1)" if rng.random() < 0.3 else "pass"
    data = f"""
class Images(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn({rows}, 3, {side}, {side}, generator=generator)
        self.labels = torch.randint(5, ({rows},), generator=generator)

    def __len__(self):
        return {rows}

    def __getitem__(self, index):
        image = self.images[index]
        {flip}
        return image, {pick(rng, "self.labels[index]", "int(self.labels[index])")}

def data():
    return {pick(rng, "Images()", "DataLoader(Images(), batch_size=8, shuffle=True)")}
"""
    return Parts("images", model, data, work=(27 * 6 * side**2, 18 * 6 * side**2 / 4))


TOKENS = """
class Windows(Dataset):
    def __init__(self, rows, first=0):
        generator = torch.Generator().manual_seed(first)
        self.tokens = torch.randint(1, {vocabulary}, (rows * {length} + 1,), generator=generator)
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        if not 0 <= index < self.rows:
            raise IndexError(index)
        window = self.tokens[index * {length} : (index + 1) * {length} + 1]
        return window[:-1], window[1:]
"""


def sequence_model(rng: np.random.Generator, vocabulary: int, causal: bool = True) -> str:
    """A tiny GPT, an LSTM or a convolutional model of sequences."""
    kind = pick(rng, "gpt", "gpt", "encoder", "lstm", "conv")
    body = {
        "gpt": "Block(width)",
        "encoder": "Encoder(width)",
        "lstm": "Recurrent(width)",
        "conv": "Convolution(width)",
    }[kind]
    tie = pick(rng, "pass", "self.head.weight = self.embed.weight")
    return f"""
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width))

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 2, w // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal={causal})
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        return x + self.mlp(x)

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.layer(x, src_mask=mask, is_causal=True)

class Recurrent(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.{pick(rng, "LSTM", "LSTM", "GRU")}(width, width, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]

class Convolution(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3)

    def forward(self, x):
        return F.relu(self.conv(F.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.body = nn.Embedding({vocabulary}, width), {body}
        self.head = nn.Linear(width, {vocabulary}, bias=False)
        {tie}

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))
"""


def tokens(rng: np.random.Generator) -> Parts:
    """Windows of tokens: a map, a stream that starts over, or a generator that is read once."""
    vocabulary, length, rows = (
        int(pick(rng, 17, 64)),
        int(pick(rng, 8, 24)),
        int(pick(rng, 300, 900)),
    )
    kind = pick(
        rng, "map", "map", "pair", "loader", "stream", "numbers", "endless", "once", "short"
    )
    body = {
        "map": f"return Windows({rows})",
        "pair": f"return Windows({rows}), Windows(40, 1)",
        "loader": f"return DataLoader(Windows({rows}), 4, drop_last=True)",
        "stream": f"return Again({rows}), Again(40)",
        "numbers": f"return [(x, y.tolist()) for x, y in (Windows({rows})[i] for i in range({rows}))]",
        "endless": "return Endless(), Again(40)",
        "once": "return (w[i] for w in [Windows(5000)] for i in range(5000)), "
        "[Windows(40)[i] for i in range(40)]",
        "short": "return (Windows(6)[i] for i in range(6)), [Windows(40)[i] for i in range(40)]",
    }[kind]
    data = (
        TOKENS.format(vocabulary=vocabulary, length=length)
        + f"""
class Again(IterableDataset):
    def __init__(self, rows):
        self.windows = Windows(rows)

    def __iter__(self):
        return (self.windows[i] for i in range(len(self.windows)))

class Endless(IterableDataset):
    def __iter__(self):
        windows, i = Windows(2000), 0
        while True:
            yield windows[i % 2000]
            i += 1

def data():
    {body}
"""
    )
    once = kind in ("once", "short")
    refuse = "a generator of 6 items" if kind == "short" else ""
    return Parts(
        f"tokens {kind}",
        sequence_model(rng, vocabulary),
        data,
        must_refuse=refuse,
        once=once,
        work=(6.0 * vocabulary, 72.0),
    )


def masked(rng: np.random.Generator) -> Parts:
    """A masked language model: most targets are ignored."""
    vocabulary, length, share = 32, int(pick(rng, 8, 32)), pick(rng, 0.15, 0.5, 0.02)
    fresh = rng.random() < 0.3  # masks drawn anew each time, from torch's global state
    seed = "" if fresh else "generator=torch.Generator().manual_seed(int(index)), "
    data = f"""
class Masked(Dataset):
    def __len__(self):
        return 800

    def __getitem__(self, index):
        tokens = (torch.arange({length}) * 7 + int(index)) % {vocabulary - 1} + 1
        mask = torch.rand(({length},), {seed}) < {share}
        return tokens.masked_fill(mask, 0), tokens.masked_fill(~mask, -100)

def data():
    return Masked()
"""
    model = sequence_model(rng, vocabulary, causal=False)
    return Parts("masked", model, data, work=(6.0 * vocabulary / share, 72.0 / share))


def lengths(rng: np.random.Generator) -> Parts:
    """Items of many lengths, padded by the collate function of a DataLoader."""
    longest = int(pick(rng, 12, 40))
    ignore = pick(rng, -100, -100, 0)
    data = f"""
class Sentences(Dataset):
    def __len__(self):
        return 900

    def __getitem__(self, index):
        length = 2 + (int(index) * 7919) % {longest}
        tokens = (torch.arange(length + 1) * 5 + int(index)) % 30 + 1
        return tokens[:-1], tokens[1:]

def pad(items):
    inputs = nn.utils.rnn.pad_sequence([i for i, _ in items], batch_first=True)
    targets = nn.utils.rnn.pad_sequence([t for _, t in items], True, {ignore})
    return inputs, targets

def data():
    return DataLoader(Sentences(), batch_size=16, collate_fn=pad)
"""
    loss = None
    if ignore == 0:
        loss = """
def loss(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)

loss.ignore_index = 0
"""
    return Parts("lengths", sequence_model(rng, 32), data, loss=loss, work=(400, 100))


def mappings(rng: np.random.Generator) -> Parts:
    """Two inputs by name, or in a tuple; targets by name."""
    by_name = rng.random() < 0.6
    inputs = "{'left': a, 'right': b}" if by_name else "(a, b)"
    head = pick(rng, "one", "two")
    targets = "label" if head == "one" else "{'label': label, 'value': value}"
    loss = (
        None
        if head == "one"
        else """
def loss(outputs, targets):
    y, value = outputs
    return F.cross_entropy(y, targets["label"]) + F.mse_loss(value[:, 0], targets["value"])
"""
    )
    data = f"""
class Pairs(Dataset):
    def __init__(self):
        torch.manual_seed(0)
        self.a, self.b = torch.randn(1500, 6), torch.randn(1500, 3)

    def __len__(self):
        return 1500

    def __getitem__(self, index):
        a, b, label, value = self.a[index], self.b[index], int(index) % 4, float(index) / 1500
        return {inputs}, {targets}

def data():
    return Pairs()
"""
    model = f"""
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left, self.right = nn.Linear(6, width), nn.Bilinear(3, 3, width)
        self.head, self.value = nn.Linear(2 * width, 4), nn.Linear(2 * width, 1)

    def forward(self, left, right):
        x = torch.cat([self.left(left), self.right(right, right)], 1).relu()
        return {"self.head(x)" if head == "one" else "self.head(x), self.value(x)"}
"""
    kind = "classes" if head == "one" else "none"
    return Parts("mappings", model, data, kind, loss=loss, work=(150, 0))


def contrastive(rng: np.random.Generator) -> Parts:
    """Two towers whose loss compares the items of a batch."""
    model = """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width))
        self.b = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, a, b):
        return F.normalize(self.a(a), dim=1), F.normalize(self.b(b), dim=1)
"""
    data = """
class Views(Dataset):
    def __init__(self):
        torch.manual_seed(0)
        self.x = torch.randn(2000, 8)

    def __len__(self):
        return 2000

    def __getitem__(self, index):
        return (self.x[index], self.x[index] + 0.1), int(index)

def data():
    return Views()
"""
    loss = """
def loss(outputs, targets):
    a, b = outputs
    return F.cross_entropy(10 * a @ b.T, torch.arange(len(a), device=a.device))
"""
    return Parts("contrastive", model, data, "none", loss=loss, work=(300, 12))


def own_loss(rng: np.random.Generator) -> Parts:
    """A model that is given the targets, too, and returns its loss."""
    model = """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x, y):
        return F.cross_entropy(self.layers(x), y)
"""
    data = """
def data():
    torch.manual_seed(0)
    xs, ys = torch.randn(1000, 5), torch.randint(3, (1000,))
    return [((x, y), y) for x, y in zip(xs, ys)]
"""
    loss = "\ndef loss(outputs, targets):\n    return outputs\n"
    return Parts("own loss", model, data, "none", loss=loss, work=(50, 0))


def stateful(rng: np.random.Generator) -> Parts:
    """An autoencoder of its own inputs, with noise in the model: diffusion in small."""
    model = """
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, 6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.layers(x + 0.1 * torch.randn_like(x))
"""
    data = """
def data():
    torch.manual_seed(0)
    x = torch.rand(1200, 6)
    return TensorDataset(x, x)
"""
    return Parts("stateful", model, data, "floats", work=(20, 0))


TASKS = (
    vectors,
    vectors,
    vectors,
    images,
    tokens,
    tokens,
    tokens,
    masked,
    masked,
    lengths,
    lengths,
    mappings,
    contrastive,
    own_loss,
    stateful,
)

# -- losses

LOSSES = {
    "classes": {
        "cross entropy": "F.cross_entropy({y}.flatten(0, -2), targets.flatten())",
        "smoothed": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), label_smoothing=0.1)",
        "nll": "F.nll_loss({y}.flatten(0, -2).log_softmax(-1), targets.flatten())",
        "averaged": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='none').mean()",
        "focal": "((1 - (p := (-F.cross_entropy({y}.flatten(0, -2), targets.flatten(), "
        "reduction='none')).exp())) ** 2 * -p.log()).mean() + 0.01",
        "summed": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='sum')",
        "negative": "-F.cross_entropy({y}.flatten(0, -2), targets.flatten())",
        "not reduced": "F.cross_entropy({y}.flatten(0, -2), targets.flatten(), reduction='none')",
    },
    "floats": {
        "mse": "F.mse_loss({y}, targets) + 0.1",
        "mae": "F.l1_loss({y}, targets)",
        "bce": "F.binary_cross_entropy_with_logits({y}, targets)",
        "huber": "F.smooth_l1_loss({y}, targets) + 1",
        "summed": "F.mse_loss({y}, targets, reduction='sum')",
        "negative": "F.mse_loss({y}, targets) - 100",
        "not reduced": "(({y} - targets) ** 2).mean(-1)",
    },
}
MUST_REFUSE = ("summed", "negative", "not reduced")


def with_loss(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same with a loss drawn for its targets, now and then one that no law can take."""
    if parts.loss is not None or parts.targets == "none":
        return parts
    simple = parts.outputs == "outputs" and parts.targets == "classes"
    if simple and rng.random() < (0.9 if parts.name in ("masked", "lengths") else 0.4):
        return parts
    losses = LOSSES[parts.targets]
    good = [name for name in losses if name not in MUST_REFUSE]
    name = pick(rng, *(good if rng.random() < 0.85 else MUST_REFUSE))
    text = losses[name].format(y=parts.outputs)
    refuse = f"a loss that is {name}" if name in MUST_REFUSE else parts.must_refuse
    return replace(
        parts,
        loss=f"\ndef loss(outputs, targets):\n    return {text}\n",
        must_refuse=refuse,
        name=f"{parts.name}, {name}",
    )


# -- optimisers

OPTIMIZERS = {
    "sgd": "return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)",
    "two": "return [torch.optim.SGD(matrices, lr=lr), torch.optim.AdamW(others, lr=0.1 * lr)]",
    "rmsprop": "return torch.optim.RMSprop(model.parameters(), lr=lr)",
    "adagrad": "return torch.optim.Adagrad(model.parameters(), lr=lr)",
    "muon": "return [torch.optim.Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr)]",
    "switched": "return Switched(model.parameters(), lr=lr)",
    "lbfgs": "return torch.optim.LBFGS(model.parameters(), lr=lr)",
    "no rate": "return NoRate(model.parameters())",
    "foreign": "return torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=lr)",
}
OPTIMIZER = """
class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {{}})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= 0.001 * p.grad.sign()

class Switched(torch.optim.SGD):
    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"

def optimizer(model, lr):
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2]
    others = [p for p in trained if p.ndim != 2]
    {body}
"""


def with_optimizer(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same with an optimiser, now and then one that the loop cannot step."""
    if rng.random() < 0.4:
        return parts
    wrong = ("lbfgs", "no rate", "foreign")
    good = [name for name in OPTIMIZERS if name not in wrong]
    name = pick(rng, *(good if rng.random() < 0.85 else wrong))
    refuse = f"the optimiser {name}" if name in wrong else parts.must_refuse
    text = OPTIMIZER.format(body=OPTIMIZERS[name])
    return replace(parts, optimizer=text, must_refuse=refuse, name=f"{parts.name}, {name}")


# -- what is wrong with data


def with_data(rng: np.random.Generator, parts: Parts) -> Parts:
    """The same data, now and then spoilt: too few, targets that are NaN, a weighted sampler."""
    single = "DataLoader" not in parts.data and ".once" not in parts.name
    if parts.name.startswith("tokens") or not single or rng.random() < 0.8:
        return parts
    text = parts.data.replace("def data():", "def clean():")
    kind = pick(rng, "few", "nan", "nan", "weighted", "empty")
    if kind == "nan" and parts.targets != "floats":
        kind = "weighted"
    body = {
        "few": "torch.utils.data.Subset(items, range(40))",
        "empty": "torch.utils.data.Subset(items, [])",
        "nan": "[(x, torch.full_like(y, float('nan')) if i % 50 == 7 else y) "
        "for i, (x, y) in enumerate(items)]",
        "weighted": "DataLoader(items, 8, sampler=torch.utils.data.WeightedRandomSampler("
        "torch.arange(1.0, len(items) + 1), len(items)))",
    }[kind]
    text += f"\ndef data():\n    items = clean()\n    return {body}\n"
    refuse = {"nan": "targets that are NaN", "weighted": "a weighted sampler", "empty": "no items"}
    return replace(
        parts,
        data=text,
        must_refuse=refuse.get(kind, parts.must_refuse),
        name=f"{parts.name}, {kind}",
    )


def parts(rng: np.random.Generator) -> Parts:
    """A random task with its loss, its data as they may be, and an optimiser."""
    made = pick(rng, *TASKS)(rng)
    return with_optimizer(rng, with_data(rng, with_loss(rng, made)))
