"""Many runs to one verdict, kept in the ledger. Sealed."""
