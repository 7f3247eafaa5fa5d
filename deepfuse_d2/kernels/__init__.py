"""Operations written for speed, each with a reference that it is held against."""
