// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A smart wallet in its simplest form: it accepts what its owner's key signed.
contract Wallet1271 {
    bytes4 private constant ACCEPTED = 0x1626ba7e;
    bytes4 private constant REFUSED = 0xffffffff;

    address public immutable owner;

    constructor(address owner_) {
        owner = owner_;
    }

    /// EIP-1271: r, s and v, 65 bytes, over the hash as it is.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return REFUSED;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == owner ? ACCEPTED : REFUSED;
    }
}
