"""Random tasks whose items are sequences of tokens: a model with its data."""

import numpy as np
from parts import Parts, pick

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
