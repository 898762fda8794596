"""The parts around the loop of `flops_fit.trainer`: data order, checks, checkpoints, evaluation."""
