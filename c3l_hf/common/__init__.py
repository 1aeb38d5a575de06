"""What every room uses: errors, files, processes, tables, intervals, a run's folder."""
