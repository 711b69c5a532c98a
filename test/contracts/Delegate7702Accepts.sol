// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// Code for an EIP-7702 account that goes on accepting what its own key signs.
contract Delegate7702Accepts {
    /// EIP-1271; address(this) is the account that delegated.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == address(this) ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    receive() external payable {}
}
