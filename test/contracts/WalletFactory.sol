// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {Wallet1271} from "./Wallet1271.sol";

/// Creates wallets at addresses known before they exist, as ERC-6492 payers do.
contract WalletFactory {
    event Deployed(address indexed wallet, address indexed owner);

    /// Creates the wallet of this owner and salt, or returns the one there is.
    function deploy(address owner, bytes32 salt) public virtual returns (address wallet) {
        wallet = predict(owner, salt);
        if (wallet.code.length > 0) return wallet;
        new Wallet1271{salt: salt}(owner);
        emit Deployed(wallet, owner);
    }

    /// The address that deploy gives the wallet.
    function predict(address owner, bytes32 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Wallet1271).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }
}
