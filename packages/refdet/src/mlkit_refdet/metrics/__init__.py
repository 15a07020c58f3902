"""Average precision, false alarms, ST-IoU of videos and the few-shot protocol."""
