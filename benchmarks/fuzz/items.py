"""Random tasks whose items are vectors, images or mappings: a model with its data."""

import numpy as np
from parts import Parts, pick


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
