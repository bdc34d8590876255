"""Stand-ins for what the tests cannot or need not run; each is exercised by the tests that use it."""
