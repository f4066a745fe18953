"""Tools: functions that an answer may call."""
