"""Steps that go wrong: found, named, and kept to be looked at."""
