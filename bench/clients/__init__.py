"""The cost of a job through the clients, and beside other Python libraries."""
