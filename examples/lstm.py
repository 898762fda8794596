"""A plain LSTM language model: no attention, no method of ours, torch's own layers."""

from torch import nn


class LSTM(nn.Module):
    def __init__(self, width, layers=2, vocab_size=256):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens):
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(states)
