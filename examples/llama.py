"""A Hugging Face causal language model, built from a config: nothing is downloaded."""

from transformers import LlamaConfig, LlamaForCausalLM

from flops_fit.loss import cross_entropy

HEAD_DIM = 8


def llama(hidden_size, layers=2, vocab_size=256, seq_len=64):
    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // HEAD_DIM,
        num_key_value_heads=hidden_size // HEAD_DIM,
        vocab_size=vocab_size,
        max_position_embeddings=seq_len,
    )
    return LlamaForCausalLM(config)


def loss(outputs, targets):
    """The targets are the next tokens already, so the model is not given any labels to shift."""
    return cross_entropy(outputs.logits, targets)
