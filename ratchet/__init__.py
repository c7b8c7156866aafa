"""The machinery around the three files: referee, sandbox, ledger, night, pool."""
