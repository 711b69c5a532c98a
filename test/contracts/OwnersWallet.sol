// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A wallet of several owners in the manner of a Safe: a threshold of them
/// signs, not the hash it is asked about, but a message of the wallet's own
/// domain, and the signatures stand one after the other, by rising owner. What
/// it does not accept it answers by reverting.
contract OwnersWallet {
    bytes32 private constant DOMAIN = keccak256("EIP712Domain(uint256 chainId,address verifyingContract)");
    bytes32 private constant MESSAGE = keccak256("SafeMessage(bytes message)");

    uint256 public immutable threshold;
    mapping(address => bool) public isOwner;

    constructor(address[] memory owners, uint256 threshold_) {
        for (uint256 i = 0; i < owners.length; i++) isOwner[owners[i]] = true;
        threshold = threshold_;
    }

    /// What the owners sign to have the wallet accept hash.
    function messageHash(bytes32 hash) public view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN, block.chainid, address(this)));
        bytes32 message = keccak256(abi.encode(MESSAGE, keccak256(abi.encode(hash))));
        return keccak256(abi.encodePacked("\x19\x01", domain, message));
    }

    /// EIP-1271.
    function isValidSignature(bytes32 hash, bytes calldata signatures) external view returns (bytes4) {
        require(signatures.length >= 65 * threshold, "GS020");
        bytes32 signed = messageHash(hash);
        address last = address(0);
        for (uint256 i = 0; i < threshold; i++) {
            bytes calldata one = signatures[65 * i:65 * (i + 1)];
            address signer = ecrecover(signed, uint8(one[64]), bytes32(one[0:32]), bytes32(one[32:64]));
            require(signer > last && isOwner[signer], "GS026");
            last = signer;
        }
        return 0x1626ba7e;
    }
}
