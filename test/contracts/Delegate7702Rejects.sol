// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// Code for an EIP-7702 account that accepts nothing, not even what its own key
/// signs: a recovered signature alone proves nothing about such an account.
contract Delegate7702Rejects {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return 0xffffffff;
    }

    receive() external payable {}
}
