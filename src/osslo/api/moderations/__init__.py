"""`/v1/moderations`: the judge, asked directly."""
