// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {SmartWallet} from "./SmartWallet.sol";

/// Creates smart wallets at addresses known before they exist: small proxies
/// (ERC-1167) of one implementation.
contract SmartWalletFactory {
    address public immutable implementation = address(new SmartWallet());

    event AccountCreated(address indexed account, bytes[] owners, uint256 nonce);

    /// Creates the wallet of these owners and nonce, or returns the one there is.
    function createAccount(bytes[] calldata owners, uint256 nonce) external payable returns (address account) {
        account = getAddress(owners, nonce);
        if (account.code.length > 0) return account;
        bytes memory code = _code();
        bytes32 salt = keccak256(abi.encode(owners, nonce));
        assembly {
            account := create2(0, add(code, 0x20), mload(code), salt)
        }
        require(account != address(0), "create2");
        SmartWallet(payable(account)).initialize(owners);
        emit AccountCreated(account, owners, nonce);
    }

    /// The address that createAccount gives the wallet.
    function getAddress(bytes[] calldata owners, uint256 nonce) public view returns (address) {
        bytes32 salt = keccak256(abi.encode(owners, nonce));
        return address(
            uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, keccak256(_code())))))
        );
    }

    function _code() private view returns (bytes memory) {
        return abi.encodePacked(
            hex"3d602d80600a3d3981f3363d3d373d3d3d363d73", implementation, hex"5af43d82803e903d91602b57fd5bf3"
        );
    }
}
