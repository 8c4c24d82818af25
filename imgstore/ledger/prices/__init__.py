"""Price lists with tiers, their stored form, and the exact price of a quantity."""
