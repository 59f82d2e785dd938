"""The schedule, the exact log and the signals inside other people's trainers.

`token_clock` says which sequences a step takes and at which learning rate, `foreign_run` writes the
run log and catches signals, `sequences` reads our token files by the number of a sequence, and
`hugging_face` puts all three into the Trainer of transformers. Only the last imports torch.
"""
