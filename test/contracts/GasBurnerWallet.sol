// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A hostile wallet: asking for its signature costs all the gas there is.
contract GasBurnerWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            invalid()
        }
    }
}
