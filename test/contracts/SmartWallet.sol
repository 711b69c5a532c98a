// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// A wallet in the manner of Coinbase's: the signature names which owner made
/// it, and it is over a hash of the wallet's own domain, so that it counts for
/// no other wallet of the same owner.
contract SmartWallet {
    struct SignatureWrapper {
        uint256 ownerIndex;
        bytes signatureData;
    }

    bytes32 private constant DOMAIN =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant MESSAGE = keccak256("CoinbaseSmartWalletMessage(bytes32 hash)");

    bytes[] private owners;

    /// The factory calls it in the transaction that deploys the wallet.
    function initialize(bytes[] calldata owners_) external {
        require(owners.length == 0 && owners_.length > 0, "initialized");
        for (uint256 i = 0; i < owners_.length; i++) owners.push(owners_[i]);
    }

    /// What an owner signs to have the wallet accept hash.
    function replaySafeHash(bytes32 hash) public view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN, keccak256("Coinbase Smart Wallet"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, keccak256(abi.encode(MESSAGE, hash))));
    }

    /// EIP-1271: the signature is an encoded SignatureWrapper.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        SignatureWrapper memory wrapper = abi.decode(signature, (SignatureWrapper));
        if (wrapper.ownerIndex >= owners.length || wrapper.signatureData.length != 65) return 0xffffffff;
        address owner = abi.decode(owners[wrapper.ownerIndex], (address));
        bytes memory data = wrapper.signatureData;
        bytes32 r;
        bytes32 s;
        uint8 v;
        assembly {
            r := mload(add(data, 0x20))
            s := mload(add(data, 0x40))
            v := byte(0, mload(add(data, 0x60)))
        }
        address signer = ecrecover(replaySafeHash(hash), v, r, s);
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    receive() external payable {}
}
