"""Operations of the networks: each with a plain reference, a fast path and the choice between them."""
