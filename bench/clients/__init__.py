"""The cost of a job through the clients, and in comparison with other Python libraries."""
