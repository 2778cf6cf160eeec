"""Named rules that had to be used: what a result records where the plain arithmetic did not suffice."""

from dataclasses import dataclass

FEW_TOKENS = "few tokens"


@dataclass(frozen=True)
class Note:
    """A named rule that had to be used, and its value.

    "dead input"           number of inputs that were zero on every calibration token
    "damping"              the share of the mean diagonal that had to be added, ten times larger per failed
                           factorisation
    "float64"              number of rows solved again in double precision
    "kept start"           number of rows whose refined mask was no better than the one they started from
    "kept plain mask"      number of rows whose refit was no better than their masked weights
    "constant input"       number of inputs that were the same on every calibration token
    "few tokens"           number of calibration tokens, no more than the kept features they had to determine
    "through the origin"   number of rows of a matrix without a bias that was repaired by its weights alone
    "condition"            condition number of the matrix that a repair solved, estimated
    "conjugate gradients"  number of steps that solved a repair of experts whose matrix was too large to be made
    "not converged"        largest relative residual of an output where as many steps as are allowed were not enough
    "penalty"              the penalty that held-out error chose, as a share of the mean diagonal
    "removes nothing"      number of weights of a matrix of which the share asked for removes none, by rounding
    "zeros kept"           number of weights that were zero before and are kept, so that a solver may change them;
                           zeros=stay keeps them out
    "scales out of range"  number of structures whose scales were too large to be used; all of the layer's were left
                           at 1
    "starved: ..."         number of calibration tokens that went to an expert, fewer than its matrix has inputs; after
                           the colon the rule of `streams/starved.py` that was used, or "left", where no token went
                           there and nothing could be trained
    "ended worse"          how many times farther from its targets training left a unit than it found it (in nats where
                           the model is retrained); named by its first block and, where it is no whole block, its part
    """

    rule: str
    value: float
