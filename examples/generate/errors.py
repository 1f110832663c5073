# What the user can put right: shown as one sentence, without a traceback.


class UsageError(Exception):
    pass
