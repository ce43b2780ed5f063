"""One model task each, as plain classes that a unit test calls directly. Never imports Ray."""
