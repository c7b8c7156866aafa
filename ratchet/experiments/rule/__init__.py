"""What decisions are made of: statistics, the search for gains, the rule of older ledgers."""
