"""Operations between the matrix products, each in one pass over memory: compiled on the user's machine, or torch's own."""
