"""Scanner front ends and the warm core behind them: whatever comes in, `pipeline.reconstruct` answers."""
