"""Operations of the networks: each file has a plain reference, fast paths and the choice between them."""
