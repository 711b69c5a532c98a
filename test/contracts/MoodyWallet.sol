// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A hostile wallet that answers whatever it was set to, whoever signed. Anybody
/// may set it, at any time.
contract MoodyWallet {
    uint256 private constant MAGIC = 0x1626ba7e << 224;

    enum Mood {
        Accepts,
        Refuses,
        Reverts,
        RevertsLong, // with as much data as fits
        RunsInvalid, // all gas is gone at once
        Loops, // all gas is gone step by step
        Nothing, // no data at all
        Short, // four bytes, which are the right ones
        Empty, // 32 zero bytes
        Wrong, // 32 other bytes
        Dirty, // the right ones and more in the same word
        True, // as a function returning bool would
        Long, // 64 KiB of zeros
        LongRight, // the right word and 64 KiB
        Huge, // more than any payment's gas can hold
        OddBlocks, // accepts in every other block
        Simulated // accepts where nobody pays for gas
    }

    Mood public mood;

    constructor(Mood mood_) {
        mood = mood_;
    }

    function set(Mood mood_) external {
        mood = mood_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        Mood m = mood;
        if (m == Mood.OddBlocks) m = block.number % 2 == 1 ? Mood.Accepts : Mood.Refuses;
        if (m == Mood.Simulated) m = tx.gasprice == 0 ? Mood.Accepts : Mood.Loops;
        if (m == Mood.Accepts) return bytes4(0x1626ba7e);
        if (m == Mood.Refuses) return 0xffffffff;
        if (m == Mood.Reverts) revert("not in the mood");
        if (m == Mood.Loops) while (true) {}
        if (m == Mood.True) _return(1, 32);
        if (m == Mood.Nothing) _return(0, 0);
        if (m == Mood.Short) _return(MAGIC, 4);
        if (m == Mood.Empty) _return(0, 32);
        if (m == Mood.Wrong) _return(0xdeadbeef << 224, 32);
        if (m == Mood.Dirty) _return(MAGIC | 1, 32);
        if (m == Mood.Long) _return(0, 65536);
        if (m == Mood.LongRight) _return(MAGIC, 65536);
        if (m == Mood.Huge) _return(MAGIC, 16777216);
        if (m == Mood.RevertsLong) {
            assembly {
                revert(0, 65536)
            }
        }
        assembly {
            invalid()
        }
    }

    function _return(uint256 word, uint256 size) private pure {
        assembly {
            mstore(0, word)
            return(0, size)
        }
    }
}
