"""Loops are read from listings of machine code as they stand there."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from bench.device.machine_code import longest_loop

# As cuobjdump lists it: each instruction with its place, then the encoding. A short loop, then a longer one: a branch
# over a product, one over two other instructions, a jump out; then the padding that jumps to itself.
LISTING = """
        code for sm_90
        /*0000*/                   MOV R1, c[0x0][0x28] ;                 /* 0x00000a0000017a02 */
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;                /* 0x0000000102027810 */
        /*0020*/              @!P0 BRA 0x10 ;                             /* 0xfffffff000007947 */
        /*0028*/               @P4 BRA 0x80 ;                             /* 0x0000003000007947 */
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0040*/               @P1 BRA 0x70 ;                             /* 0x0000003000007947 */
        /*0050*/                   ISETP.GE.AND P2, PT, R4, R5, PT ;
        /*0060*/                   FSEL R6, R6, -INF , !P2 ;
        /*0070*/                   MUFU.EX2 R6, R6 ;
        /*0080*/               @P3 BRA `(.L_x_1) 0xb0;
        /*0090*/              @!UP0 BRA 0x28 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   BRA 0xb0;
"""


def test_the_longest_loop_less_what_its_branch_passes_by():
    loop = longest_loop(LISTING)
    assert (loop.instructions, loop.passed_by) == (8, 2)
    assert loop.names == {"HGMMA": 1, "BRA": 4, "ISETP": 1, "FSEL": 1, "MUFU": 1}
    assert loop.issue_cycles(warps=8) == 12


def test_no_loop_is_none():
    assert longest_loop(LISTING.replace("BRA 0x10", "NOP").replace("BRA 0x28", "NOP")) is None
