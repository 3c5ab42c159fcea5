"""The recipe of Fust's starter model: from open stories to a small model that chats, in one command.

    python -m examples.starter --corpus DIR --out DIR

Read in this order: ``sources`` (what may be used, and under which licence), ``corpus`` (clean, filter, split),
``tokenizer``, ``train`` (pre-training and chat tuning), ``chat`` (the rows that we wrote ourselves), ``export``
(safetensors and GGUF), ``measure`` (the figures of the card), ``card``.
"""
